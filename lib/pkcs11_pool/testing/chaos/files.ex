defmodule Pkcs11Pool.Testing.Chaos.Files do
  @moduledoc false
  # The files of a chaos module, in a folder of its own: its library, a copy of the real module, its configuration, its socket.

  # Unix sockets' paths have room for 104 to 108 bytes, depending on the system.
  @longest_path 100

  @type t :: %{
          module: Path.t(),
          module_env: map,
          dir: Path.t(),
          socket: Path.t(),
          init: Path.t()
        }

  @doc """
  Makes the folder and the files around a real module.
  """
  @spec make!(real_module :: Path.t(), keyword) :: t
  def make!(real_module, opts) do
    library = library!()
    dir = make_dir!(Path.expand(opts[:tmp_dir]))

    files = %{
      module: Path.join(dir, "pkcs11_pool_chaos.so"),
      module_env: opts[:module_env],
      dir: dir,
      socket: Path.join(dir, "control"),
      init: Path.join(dir, "init")
    }

    File.cp!(library, files.module)
    real = if opts[:copy], do: copy!(real_module, dir), else: real_module

    # Beside the library and not in the environment, which all modules of the VM share.
    File.write!(files.module <> ".conf", """
    module=#{real}
    socket=#{files.socket}
    init=#{files.init}
    """)

    files
  end

  # Only one that was asked for by PKCS11_POOL_CHAOS=1 is in priv.
  defp library! do
    places =
      for dir <- ["chaos", "priv/native"],
          do: Application.app_dir(:pkcs11_pool, Path.join(dir, "pkcs11_pool_chaos.so"))

    Enum.find(places, &File.regular?/1) ||
      raise "the library of Pkcs11Pool.Testing.Chaos was not built, since that is done without being asked only in " <>
              "the environments :dev and :test: run `PKCS11_POOL_CHAOS=1 mix deps.compile pkcs11_pool --force`"
  end

  defp make_dir!(parent) do
    name = "chaos-#{System.pid()}-#{System.unique_integer([:positive])}-#{:rand.uniform(9999)}"
    dir = Path.join(parent, name)

    if byte_size(dir) + byte_size("/control") > @longest_path do
      raise ArgumentError, "#{parent} is too long a path for a Unix socket: give another :tmp_dir"
    end

    File.mkdir!(dir)
    File.chmod!(dir, 0o700)
    dir
  end

  defp copy!(real_module, dir) do
    copy = Path.join(dir, "real.so")
    File.cp!(real_module, copy)
    copy
  end
end
