defmodule Pkcs11Pool.Testing do
  @moduledoc ~S"""
  Throwaway tokens for the tests of your application, made with SoftHSM. They need no HSM and no root, and touch neither your own tokens nor your files.

      defmodule MyApp.PaymentsTest do
        use ExUnit.Case, async: true

        setup do: Pkcs11Pool.Testing.start_pool!(keys: [signing: :p256, archive: :aes256])

        test "a payment is signed", %{pool: pool} do
          {:ok, signature} = Pkcs11Pool.sign(pool, "signing", {:ecdsa, hash: :sha256}, "payment")
          assert :ok = Pkcs11Pool.verify(pool, "signing", {:ecdsa, hash: :sha256}, "payment", signature)
        end
      end

  Each call makes its own token, in its own copy of SoftHSM, so that tests can run at the same time without seeing each other. Pool, token and
  folder are removed at the end of the test (or, with `setup_all`, of the test module). A copy stays loaded in the VM, like every PKCS#11 module: 1 MB each. If many tests can share a token, use `setup_all`.

  With `chaos: true` the token is wrapped by a `Pkcs11Pool.Testing.Chaos`, which makes it slow, full, hung or unplugged on command:

      setup do: Pkcs11Pool.Testing.start_pool!(keys: [signing: :p256], chaos: true)

      test "says so when the HSM is away", %{pool: pool, chaos: chaos} do
        Pkcs11Pool.Testing.Chaos.remove_token(chaos)
        assert {:error, %Pkcs11Pool.Error{}} = Pkcs11Pool.sign(pool, "signing", :ecdsa, <<0::256>>)
      end

  If your code contains the name of the pool, start a pool with this name in `test/test_helper.exs`:

      token = Pkcs11Pool.Testing.new_token!()
      {:ok, _pid} = Pkcs11Pool.start_link(Pkcs11Pool.Testing.pool_options(token, name: MyApp.HSM))
      Pkcs11Pool.Testing.generate_keys!(MyApp.HSM, signing: :rsa2048)
      ExUnit.after_suite(fn _result -> Pkcs11Pool.Testing.delete_token(token) end)

  SoftHSM finds its configuration by the environment variable `SOFTHSM2_CONF`, and there is only one for the whole VM. These functions set it for the C library. So if the same VM has a pool on
  another SoftHSM token, give that pool its own configuration: `module_env: %{"SOFTHSM2_CONF" => "/path/of/softhsm2.conf"}`.

  Most systems have a package of SoftHSM: `softhsm2` on Debian, `softhsm` on Alpine, Fedora and Homebrew. Its library is found where these packages put it; for another place, set the variable
  `SOFTHSM2_MODULE`.
  """

  import Pkcs11Pool.API.Bang, only: [unwrap!: 1]

  alias Pkcs11Pool.{NewKey, Token}
  alias Pkcs11Pool.Testing.Chaos

  @compile {:no_warn_undefined, [ExUnit.Callbacks]}

  @modules [
    "/usr/lib/*/softhsm/libsofthsm2.so",
    "/usr/lib/softhsm/libsofthsm2.so",
    "/usr/lib64/softhsm/libsofthsm2.so",
    "/usr/lib64/pkcs11/libsofthsm2.so",
    "/usr/lib/pkcs11/libsofthsm2.so",
    "/opt/homebrew/lib/softhsm/libsofthsm2.so",
    "/usr/local/lib/softhsm/libsofthsm2.so"
  ]

  @typedoc """
  A throwaway token. `:module`, `:module_env` and `:slot` are a pool's options of these names; `:pin` and `:so_pin` its PINs; `:chaos` the chaos module
  that wraps it, or nil.
  """
  @type token :: %{
          module: Path.t(),
          module_env: %{String.t() => String.t()},
          slot: {:token_label, String.t()},
          pin: String.t(),
          so_pin: String.t(),
          chaos: Chaos.t() | nil,
          dir: Path.t()
        }

  @typedoc "A kind of key, see `generate_keys!/2`."
  @type key_type ::
          :rsa2048
          | :rsa3072
          | :rsa4096
          | :p256
          | :p384
          | :p521
          | :secp256k1
          | :ed25519
          | :aes128
          | :aes256
          | :hmac

  @typedoc """
  Options of `new_token!/1`:

    * `:label` - the token's label, of at most 32 bytes; `"test"` by default
    * `:pin`, `:so_pin` - of 4 to 255 bytes; `"1234"` and `"5678"` by default
    * `:chaos` - `true`: wrapped by a chaos module; `false` by default
    * `:module` - the path of SoftHSM's library
    * `:tmp_dir` - where the token's folder is made; `System.tmp_dir!/0` by default
  """
  @type token_option ::
          {:label, String.t()}
          | {:pin, String.t()}
          | {:so_pin, String.t()}
          | {:chaos, boolean}
          | {:module, Path.t()}
          | {:tmp_dir, Path.t()}

  @doc """
  Makes a token, a pool on it, and keys, for `setup` and `setup_all` of ExUnit. Returns the context `%{pool: name, token: token, chaos: chaos}`. Everything is removed at the end of the test.

  Options: those of `new_token!/1`; `:keys`, see `generate_keys!/2`; and every option of a pool, such as `:pool_size`. Without `:name` the pool gets a unique
  name.
  """
  @spec start_pool!([token_option | {:keys, [{atom | String.t(), key_type}]} | {atom, term}]) ::
          %{pool: term, token: token, chaos: Chaos.t() | nil}
  def start_pool!(opts \\ []) do
    {own, opts} = Keyword.split(opts, [:label, :pin, :so_pin, :chaos, :module, :tmp_dir])
    {keys, opts} = Keyword.pop(opts, :keys, [])
    keys = Enum.map(keys, &key!/1)
    token = new_token!(own)
    ExUnit.Callbacks.on_exit(fn -> delete_token(token) end)
    opts = pool_options(token, opts)
    ExUnit.Callbacks.start_supervised!({Pkcs11Pool, opts})
    Enum.each(keys, &generate!(opts[:name], &1))
    %{pool: opts[:name], token: token, chaos: token.chaos}
  end

  @doc """
  Makes a new token, in its own copy of SoftHSM. `delete_token/1` removes it. Raises if SoftHSM is not installed.
  """
  @spec new_token!([token_option]) :: token
  def new_token!(opts \\ []) do
    opts = options!(opts)
    real = opts[:module] || soft_hsm!()
    parent = opts[:tmp_dir] || System.tmp_dir!()
    dir = Path.join(parent, "pkcs11_pool-token-#{System.pid()}-#{unique()}")
    File.mkdir_p!(Path.join(dir, "tokens"))
    File.chmod!(dir, 0o700)
    conf = Path.join(dir, "softhsm2.conf")

    File.write!(conf, """
    directories.tokendir = #{dir}/tokens
    objectstore.backend = file
    log.level = ERROR
    """)

    token =
      Map.merge(module!(real, dir, conf, opts), %{
        pin: opts[:pin],
        so_pin: opts[:so_pin],
        dir: dir
      })

    token = Map.put(token, :slot, {:token_label, opts[:label]})

    try do
      target = Map.to_list(Map.take(token, [:module, :module_env]))
      so_pin = fn -> token.so_pin end
      # A new SoftHSM has one slot, number 0.
      :ok = unwrap!(Token.init([slot: {:slot_id, 0}] ++ target, opts[:label], so_pin))
      :ok = unwrap!(Token.init_pin([slot: token.slot] ++ target, so_pin, fn -> token.pin end))
      token
    rescue
      error ->
        delete_token(token)
        reraise error, __STACKTRACE__
    end
  end

  @doc """
  The options of a pool on this token. `overrides` are other options of a pool; they win.
  """
  @spec pool_options(token, keyword) :: keyword
  def pool_options(%{pin: pin} = token, overrides \\ []) do
    Keyword.merge(
      [
        name: {__MODULE__, unique()},
        module: token.module,
        module_env: token.module_env,
        slot: token.slot,
        pin: fn -> pin end
      ],
      overrides
    )
  end

  @doc """
  Makes keys on the pool's token: `[signing: :p256, archive: :aes256]` are labels and types. All keys are token objects, and private and secret keys are `private: true`.

  `:rsa2048`, `:rsa3072`, `:rsa4096`, `:p256`, `:p384`, `:p521`, `:secp256k1` and `:ed25519` are key pairs that sign and verify (RSA keys also encrypt and decrypt).
  `:aes128` and `:aes256` encrypt and decrypt. `:hmac`, a generic secret of 32 bytes, signs and verifies. For other keys use
  `Pkcs11Pool.generate_key/4` and `Pkcs11Pool.generate_key_pair/5`.
  """
  @spec generate_keys!(term, [{atom | String.t(), key_type}]) :: :ok
  def generate_keys!(pool, keys) do
    keys |> Enum.map(&key!/1) |> Enum.each(&generate!(pool, &1))
  end

  @doc """
  Removes a token: its folder, and the chaos module that wraps it. Stop its pools before. After `start_pool!/1` this is done at the end of the test.
  """
  @spec delete_token(token) :: :ok
  def delete_token(%{chaos: chaos, dir: dir}) do
    if chaos, do: Chaos.stop(chaos)
    File.rm_rf!(dir)
    :ok
  end

  @doc """
  The path of SoftHSM's library, or nil if it is not found. For instance `@tag skip: Pkcs11Pool.Testing.soft_hsm() == nil`.
  """
  @spec soft_hsm() :: Path.t() | nil
  def soft_hsm do
    System.get_env("SOFTHSM2_MODULE") ||
      Enum.find_value(@modules, &List.first(Path.wildcard(&1)))
  end

  ## Parts

  defp soft_hsm! do
    soft_hsm() ||
      raise "SoftHSM is not installed: install softhsm2 (Debian) or softhsm (Alpine, Fedora, Homebrew), or name its library by the variable SOFTHSM2_MODULE"
  end

  @defaults [label: "test", pin: "1234", so_pin: "5678", chaos: false, module: nil, tmp_dir: nil]

  defp options!(opts) do
    Keyword.keyword?(opts) || raise ArgumentError, "expected options to be a keyword list"

    case Keyword.keys(opts) -- Keyword.keys(@defaults) do
      [] ->
        Keyword.merge(@defaults, opts)

      unknown ->
        raise ArgumentError,
              "unknown options #{inspect(unknown)}, valid options are: #{inspect(Keyword.keys(@defaults))}"
    end
  end

  # A copy: loaded by another path, it is a module of its own, with its own C_Initialize, login, sessions and tokens.
  defp module!(real, dir, conf, opts) do
    env = %{"SOFTHSM2_CONF" => conf}

    if opts[:chaos] do
      chaos = Chaos.start!(real, module_env: env, tmp_dir: dir)
      %{module: chaos.module, module_env: chaos.module_env, chaos: chaos}
    else
      copy = Path.join(dir, "softhsm.so")
      File.cp!(real, copy)
      %{module: copy, module_env: env, chaos: nil}
    end
  end

  @types NewKey.types()

  defp key!({label, type}) when (is_atom(label) or is_binary(label)) and type in @types,
    do: {to_string(label), type}

  defp key!(other) do
    raise ArgumentError,
          "expected a key such as {\"signing\", :p256}, with one of the types #{inspect(@types)}, got: #{inspect(other)}"
  end

  defp generate!(pool, {label, type}),
    do: unwrap!(NewKey.generate(pool, label, label, type))

  defp unique, do: System.unique_integer([:positive])
end
