defmodule Pkcs11Pool.Doctor.ModuleFile do
  @moduledoc false
  # What can be said of a module's file without loading it.

  import Bitwise

  @typedoc "What is wrong: with the bits, machine or format of the file and of this VM where these differ."
  @type problem ::
          :missing
          | :folder
          | :not_regular
          | :unreadable
          | :empty
          | {:not_elf, first_bytes :: binary}
          | :not_shared
          | {:other_machine, file :: String.t(), vm :: String.t()}

  # Where packages put PKCS#11 modules.
  @usual [
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/{softhsm,pkcs11}/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/lib/*/opensc-pkcs11.so",
    "/usr/lib64/opensc-pkcs11.so",
    "/usr/lib/*/libykcs11.so",
    "/usr/lib64/libykcs11.so",
    "/usr/lib/*/pkcs11/yubihsm_pkcs11.so",
    "/opt/cloudhsm/lib/libcloudhsm_pkcs11.so",
    "/usr/lib/*/libkmsp11.so",
    "/usr/safenet/lunaclient/lib/libCryptoki2_64.so",
    "/opt/nfast/toolkits/pkcs11/libcknfast.so",
    "/usr/lib/*/pkcs11/libtpm2_pkcs11.so",
    "/usr/lib/*/libtpm2_pkcs11.so",
    "/usr/lib/*/opencryptoki/libopencryptoki.so",
    "/usr/lib/*/p11-kit-proxy.so"
  ]

  # Of e_machine those that servers have.
  @machines %{
    3 => "x86 (32-bit)",
    8 => "MIPS",
    20 => "PowerPC",
    21 => "PowerPC (64-bit)",
    22 => "s390",
    40 => "ARM (32-bit)",
    62 => "x86-64",
    183 => "ARM (64-bit, aarch64)",
    243 => "RISC-V"
  }

  @et_dyn 3

  @doc "Whether the file can be a library for this VM, as far as its first bytes say."
  @spec check(Path.t()) :: :ok | {:error, problem}
  def check(path) do
    case File.stat(path) do
      {:ok, %{type: :regular, size: 0}} -> {:error, :empty}
      {:ok, %{type: :regular}} -> check_head(path)
      {:ok, %{type: :directory}} -> {:error, :folder}
      {:ok, _other} -> {:error, :not_regular}
      {:error, :eacces} -> {:error, :unreadable}
      {:error, _missing} -> {:error, :missing}
    end
  end

  @doc "SHA-256 of the file, as `:module_sha256` takes it; nil if it cannot be read."
  @spec sha256(Path.t()) :: String.t() | nil
  def sha256(path) do
    path
    |> File.stream!([], 65_536)
    |> Enum.reduce(:crypto.hash_init(:sha256), &:crypto.hash_update(&2, &1))
    |> :crypto.hash_final()
    |> Base.encode16(case: :lower)
  rescue
    File.Error -> nil
  end

  @doc "The modules that are where packages put them."
  @spec installed() :: [Path.t()]
  def installed, do: @usual |> Enum.flat_map(&Path.wildcard/1) |> Enum.uniq()

  defp check_head(path) do
    case head(path) do
      {:ok, head} -> if elf?(), do: compare(head), else: :ok
      :error -> {:error, :unreadable}
    end
  end

  # Elsewhere the system's own loader says what is wrong.
  defp elf?, do: match?({:ok, <<0x7F, "ELF", _rest::binary>>}, head("/proc/self/exe"))

  defp head(path) do
    case File.open(path, [:read, :binary], &IO.binread(&1, 20)) do
      {:ok, <<head::binary>>} -> {:ok, head}
      _error -> :error
    end
  end

  defp compare(file) do
    {:ok, own} = head("/proc/self/exe")

    with {:ok, type, machine} <- elf(file),
         {:ok, _type, own_machine} <- elf(own) do
      cond do
        machine != own_machine -> {:error, {:other_machine, name(machine), name(own_machine)}}
        type != @et_dyn -> {:error, :not_shared}
        true -> :ok
      end
    else
      :error -> {:error, {:not_elf, file}}
    end
  end

  # Bits, order of bytes, machine.
  defp elf(<<0x7F, "ELF", class, order, _ident::binary-10, rest::binary-4>>) do
    case {order, rest} do
      {1, <<type::little-16, machine::little-16>>} -> {:ok, type, {class, order, machine}}
      {2, <<type::big-16, machine::big-16>>} -> {:ok, type, {class, order, machine}}
      _other -> :error
    end
  end

  defp elf(_other), do: :error

  defp name({class, _order, machine}) do
    bits = if class == 1, do: "32-bit", else: "64-bit"

    case @machines do
      %{^machine => name} -> if name =~ "bit", do: name, else: "#{name}, #{bits}"
      _unknown -> "machine #{band(machine, 0xFFFF)}, #{bits}"
    end
  end
end
