defmodule Pkcs11Pool.Options do
  @moduledoc false
  # The options of a pool, checked once, before anything is loaded. They are documented in `Pkcs11Pool`. No message shows a PIN, or what could be one.

  alias Pkcs11Pool.Options.{Shape, Value}
  alias Pkcs11Pool.{Pin, Profile, ReturnCode}

  @default_pool_size 4

  # What is nil here has a default that depends on the other options, or none.
  @defaults [
    name: nil,
    module: nil,
    module_sha256: nil,
    module_env: nil,
    module_args: nil,
    slot: nil,
    profile: nil,
    type: :hsm,
    pool_size: nil,
    stripes: 1,
    pin: nil,
    pin_timeout: 10_000,
    pin_retention: :per_login,
    user: :user,
    username: nil,
    protected_authentication_path: false,
    executor: :auto,
    queue_timeout: 5_000,
    operation_timeout: 30_000,
    lease_timeout: 60_000,
    shutdown_timeout: 5_000,
    max_waiting: 1_000,
    idle_ttl: 300_000,
    max_lifetime: :infinity,
    keepalive: :off,
    random_chunk: 65_536,
    key_cache_ttl: 60_000,
    trouble_timeout: 10_000,
    trouble_interval: 30_000,
    lazy: nil,
    start: :resilient,
    inactivity_timeout: 300_000,
    reauthentication: :prompt,
    read_only: false,
    serialize: false,
    session_object: :refuse,
    retry_policy: %{}
  ]
  @names Keyword.keys(@defaults)
  @required [:name, :module, :slot]

  defstruct @defaults

  @doc """
  What an option is when it is not given; nil where that depends on other options, or there is nothing.
  """
  @spec default(name :: atom) :: term
  def default(name), do: @defaults[name]

  @type slot ::
          {:token_label, String.t()}
          | {:token_serial, String.t()}
          | {:slot_id, non_neg_integer}
          | {:uri, Pkcs11Pool.URI.slot()}

  # What may be secret is kept in a function that returns it. The options stand in child specifications and states, which supervisors and crash
  # reports show, some of them with `~p`, that knows nothing of `Inspect`: of a function it shows no more than its name.
  @sealed [:pin, :module_env, :module_args]

  @typedoc "A value that may be secret, behind a function."
  @opaque sealed(value) :: (() -> value)

  @typedoc "Checked options. Times are milliseconds; `:module_sha256` is in lower case."
  @type t :: %__MODULE__{
          name: term,
          module: Path.t(),
          module_sha256: String.t() | nil,
          module_env: sealed(%{optional(String.t()) => String.t()}) | nil,
          module_args: sealed(String.t()) | nil,
          slot: slot,
          profile: Profile.name() | nil,
          type: :hsm | :cloud_hsm | :token,
          pool_size: 1..1_024,
          stripes: 1..1_024,
          pin: sealed(Pin.Source.normalized()) | nil,
          pin_timeout: pos_integer,
          pin_retention: :per_login | :until_logout,
          user: :user | :so,
          username: String.t() | nil,
          protected_authentication_path: boolean,
          executor: :auto | :dirty_io | :threads,
          queue_timeout: timeout,
          operation_timeout: timeout,
          lease_timeout: timeout,
          shutdown_timeout: timeout,
          max_waiting: 0..1_000_000,
          idle_ttl: timeout,
          max_lifetime: timeout,
          keepalive: pos_integer | :off,
          random_chunk: pos_integer,
          key_cache_ttl: timeout,
          trouble_timeout: timeout,
          trouble_interval: pos_integer,
          lazy: boolean,
          start: :resilient | :strict,
          inactivity_timeout: timeout,
          reauthentication: :prompt | :fail,
          read_only: boolean,
          serialize: boolean,
          session_object: :refuse | :allow,
          retry_policy: %{optional(non_neg_integer) => ReturnCode.class()}
        }

  @doc """
  The options of a pool, with their defaults. Raises `ArgumentError` that names the option.
  """
  @spec validate!(keyword) :: t
  def validate!(options) do
    Shape.keyword!(options)
    Shape.known!(options, @names)
    Shape.required!(options, @required)

    profile = options |> Keyword.get(:profile) |> of_profile()
    values = Map.merge(validated!(profile), validated!(options), &explicit/3)

    pin = Value.pin_of_slot!(options[:slot], values.module)

    __MODULE__
    |> struct!(values)
    |> Map.update!(:pin, &(&1 || pin))
    |> default_of_type()
    |> check_stripes!()
    |> check_login!()
    |> seal()
  end

  defp seal(options),
    do: Enum.reduce(@sealed, options, &Map.update!(&2, &1, fn v -> seal_value(v) end))

  defp seal_value(nil), do: nil
  defp seal_value(value), do: fn -> value end

  @doc """
  The value of `:pin`, `:module_env` or `:module_args`.
  """
  @spec reveal(sealed(value) | nil) :: value | nil when value: term
  def reveal(nil), do: nil
  def reveal(sealed), do: sealed.()

  @doc """
  A pool's size that is given to a call. Raises `ArgumentError` for what is none.
  """
  @spec size!(term) :: 1..1_024
  defdelegate size!(n), to: Value

  @doc """
  A slot as the native side takes it.
  """
  @spec native_slot(slot | :uninitialized) :: tuple | :uninitialized
  def native_slot(:uninitialized), do: :uninitialized
  def native_slot({:token_label, label}), do: {:label, label}
  def native_slot({:token_serial, serial}), do: {:serial, serial}
  def native_slot({:slot_id, id}), do: {:slot_id, id}
  def native_slot({:uri, selector}), do: {:uri, Pkcs11Pool.Argument.Key.native_slot(selector)}

  @doc """
  `CKU_SO` or `CKU_USER`.
  """
  @spec user_type(:user | :so) :: 0 | 1
  def user_type(:so), do: 0
  def user_type(:user), do: 1

  @doc """
  The source of a PIN that is given to a call, as a list: of none for nil.
  """
  @spec pin_sources!(Pin.Source.t() | nil) :: [Pin.Source.normalized()]
  def pin_sources!(nil), do: []

  def pin_sources!(source) do
    case Pin.Source.normalize(source) do
      {:ok, normalized} ->
        [normalized]

      # Without the value: it may be a PIN.
      :error ->
        raise ArgumentError, "expected a PIN source: " <> Pin.Source.expected()
    end
  end

  # As everywhere in Keyword, the first of several counts.
  defp validated!(options) do
    for name <- @names,
        Keyword.has_key?(options, name),
        into: %{},
        do: {name, Value.validate!(name, options[name])}
  end

  defp of_profile(name) do
    case Value.validate!(:profile, name) do
      nil -> []
      name -> Profile.options(name)
    end
  end

  # What is given itself wins.
  defp explicit(:retry_policy, profile, policy), do: Map.merge(profile, policy)
  defp explicit(_name, _profile, value), do: value

  # Several options

  defp default_of_type(%{type: :token, pool_size: size}) when size not in [nil, 1] do
    Value.invalid!(:pool_size, "1 for a pool of type :token, which has exactly one session", size)
  end

  defp default_of_type(%{type: :token} = options),
    do: %{options | pool_size: 1, lazy: if(is_nil(options.lazy), do: true, else: options.lazy)}

  defp default_of_type(options),
    do: %{
      options
      | pool_size: options.pool_size || @default_pool_size,
        lazy: options.lazy || false
    }

  defp check_stripes!(%{stripes: stripes, pool_size: size}) when stripes > size,
    do: Value.invalid!(:stripes, "an integer from 1 to :pool_size, which is #{size}", stripes)

  defp check_stripes!(options), do: options

  defp check_login!(%{type: :cloud_hsm, pin: pin}) when pin != nil,
    do:
      Value.refused!(
        :pin,
        "a pool of type :cloud_hsm never logs in; leave it out, or use type: :hsm"
      )

  defp check_login!(%{type: :cloud_hsm, protected_authentication_path: true}) do
    Value.refused!(
      :protected_authentication_path,
      "a pool of type :cloud_hsm never logs in; leave it out, or use type: :hsm"
    )
  end

  defp check_login!(%{pin: pin, protected_authentication_path: true}) when pin != nil do
    Value.refused!(
      :pin,
      "with protected_authentication_path: true the PIN is typed at the token; leave one of the two out"
    )
  end

  defp check_login!(%{type: :token, pin: nil, protected_authentication_path: false}) do
    raise ArgumentError,
          "required :pin option not found: a pool of type :token needs " <>
            Pin.Source.expected() <> ", or protected_authentication_path: true for a PIN pad"
  end

  defp check_login!(%{pin: nil, protected_authentication_path: false, username: name})
       when name != nil do
    Value.refused!(
      :username,
      "a pool without :pin and protected_authentication_path: true never logs in; give one of them, or leave it out"
    )
  end

  defp check_login!(%{user: :so, read_only: true}) do
    Value.refused!(:read_only, "a security officer's session (user: :so) can only be read-write")
  end

  defp check_login!(options), do: options

  defimpl Inspect do
    import Inspect.Algebra

    alias Pkcs11Pool.Options

    # The arguments of a PIN source, the values of variables and the module's arguments may be secret.
    def inspect(options, opts) do
      fields =
        options
        |> Map.from_struct()
        |> Map.update!(
          :pin,
          &if(&1, do: &1 |> Options.reveal() |> Pkcs11Pool.Pin.Source.describe())
        )
        |> Map.update!(:module_env, &if(&1, do: &1 |> Options.reveal() |> Map.keys()))
        |> Map.update!(:module_args, &if(&1, do: :withheld))
        |> Enum.sort()

      container_doc("#Pkcs11Pool.Options<", fields, ">", opts, fn {name, value}, opts ->
        concat("#{name}: ", to_doc(value, opts))
      end)
    end
  end
end
