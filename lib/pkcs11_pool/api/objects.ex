defmodule Pkcs11Pool.API.Objects do
  @moduledoc false
  # Keys and other objects: made, found and destroyed.

  import Pkcs11Pool.Argument.Data, only: [binary!: 2]

  alias Pkcs11Pool.API.Selection
  alias Pkcs11Pool.Argument.{Key, PrivateKey}
  alias Pkcs11Pool.{Call, Error, Lease, Mechanism, Object, Options, Registry, Template}

  @most_found 10_000
  @token Template.name!(:token)

  @doc """
  Generates a secret key.
  """
  @spec generate_key(Pkcs11Pool.pool(), Mechanism.t(), Template.t(), keyword) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def generate_key(pool, mechanism, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object])
    encoded = Mechanism.encode!(mechanism)
    template = Template.encode!(template)
    request = {:generate_key, encoded, template}

    with :ok <- check_lifetime(pool, template, opts),
         {:ok, key} <- Call.run(pool, :generate_key, Mechanism.name(mechanism), request, opts) do
      {:ok, Object.from_native(key)}
    end
  end

  @doc """
  Generates a key pair.
  """
  @spec generate_key_pair(
          Pkcs11Pool.pool(),
          Mechanism.t(),
          Template.t(),
          Template.t(),
          keyword
        ) :: {:ok, {Object.t(), Object.t()}} | {:error, Error.t()}
  def generate_key_pair(pool, mechanism, public_template, private_template, opts) do
    opts = Options.Call.validate!(opts, [:session_object])
    encoded = Mechanism.encode!(mechanism)
    public = Template.encode!(public_template)
    private = Template.encode!(private_template)
    request = {:generate_key_pair, encoded, public, private}
    name = Mechanism.name(mechanism)

    with :ok <- check_lifetime(pool, public, opts),
         :ok <- check_lifetime(pool, private, opts),
         {:ok, {public, private}} <- Call.run(pool, :generate_key_pair, name, request, opts) do
      {:ok, {Object.from_native(public), Object.from_native(private)}}
    end
  end

  @doc """
  Makes an object of its attributes.
  """
  @spec create(Pkcs11Pool.pool(), Template.t(), keyword) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def create(pool, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object])
    template = Template.encode!(template)
    make(pool, :create_object, template, {:create_object, template}, opts)
  end

  @doc """
  Makes a private key of one that the caller has in the clear.
  """
  @spec import_private_key(Pkcs11Pool.pool(), term, Template.t(), keyword) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def import_private_key(pool, key, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object])
    template = PrivateKey.template!(key, template)
    make(pool, :import_private_key, template, {:create_object, template}, opts)
  end

  @doc """
  Makes a copy of an object, with some attributes that differ.
  """
  @spec copy(Pkcs11Pool.pool(), Pkcs11Pool.key(), Template.t(), keyword) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def copy(pool, object, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object])
    template = Template.encode!(template)
    request = {:copy_object, Key.encode!(object, nil), template}
    make(pool, :copy_object, template, request, opts)
  end

  @doc """
  Wraps a key.
  """
  @spec wrap_key(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), Pkcs11Pool.key(), keyword) ::
          {:ok, binary | {iv :: binary, wrapped :: binary}} | {:error, Error.t()}
  def wrap_key(pool, wrapping_key, mechanism, key, opts) do
    opts = Options.Call.validate!(opts, [:select])
    encoded = Mechanism.encode_for!(:wrap, mechanism)
    class = Mechanism.class_for(:wrap, mechanism)

    # Both are checked before either is looked for.
    _checked = {Selection.encode!(wrapping_key, class, opts), Selection.encode!(key, nil, opts)}

    with {:ok, wrapping_key} <- Selection.choose(pool, wrapping_key, class, opts),
         {:ok, key} <- Selection.choose(pool, key, nil, opts) do
      wrapping_key = Selection.encode!(wrapping_key, class, opts)
      request = {:wrap_key, wrapping_key, encoded, Selection.encode!(key, nil, opts)}
      Call.run(pool, :wrap_key, Mechanism.name(mechanism), request, opts)
    end
  end

  @doc """
  Unwraps a key.
  """
  @spec unwrap_key(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          iodata,
          Template.t(),
          keyword
        ) :: {:ok, Object.t()} | {:error, Error.t()}
  def unwrap_key(pool, unwrapping_key, mechanism, wrapped, template, opts) do
    wrapped = {"wrapped", wrapped}
    open_key(pool, {:unwrap, :unwrap_key}, unwrapping_key, mechanism, wrapped, template, opts)
  end

  @doc """
  Derives a key from another one.
  """
  @spec derive_key(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), Template.t(), keyword) ::
          {:ok, Object.t()} | {:error, Error.t()}
  def derive_key(pool, base_key, mechanism, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object, :select])
    encoded = Mechanism.encode_for!(:derive, mechanism)
    class = Mechanism.class_for(:derive, mechanism)
    template = Template.encode!(template)

    with {:ok, encoded} <- choose_other_key(pool, encoded, opts),
         {:ok, key} <- Selection.choose(pool, base_key, class, opts) do
      request = {:derive_key, Selection.encode!(key, class, opts), encoded, template}
      make(pool, :derive_key, template, request, opts, Mechanism.name(mechanism))
    end
  end

  # The key that the mechanism's parameters name, as the native side takes it.
  defp choose_other_key(pool, encoded, opts) do
    with {:ok, key} <- Mechanism.other_key(encoded),
         {:ok, key} <- Selection.choose(pool, key, :secret_key, opts) do
      {:ok, Mechanism.put_other_key(encoded, Selection.encode!(key, :secret_key, opts))}
    else
      :error -> {:ok, encoded}
      {:error, error} -> {:error, error}
    end
  end

  @doc """
  Makes a key and the ciphertext of which the holder of the private key makes the same.
  """
  @spec encapsulate(Pkcs11Pool.pool(), Pkcs11Pool.key(), Mechanism.t(), Template.t(), keyword) ::
          {:ok, {binary, Object.t()}} | {:error, Error.t()}
  def encapsulate(pool, public_key, mechanism, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object, :select])
    encoded = Mechanism.encode_for!(:encapsulate, mechanism)
    class = Mechanism.class_for(:encapsulate, mechanism)
    template = Template.encode!(template)
    name = Mechanism.name(mechanism)

    with {:ok, key} <- Selection.choose(pool, public_key, class, opts),
         request = {:encapsulate, Selection.encode!(key, class, opts), encoded, template},
         :ok <- check_lifetime(pool, template, opts),
         {:ok, {ciphertext, object}} <- Call.run(pool, :encapsulate, name, request, opts) do
      {:ok, {ciphertext, Object.from_native(object)}}
    end
  end

  @doc """
  Makes the key whose ciphertext this is.
  """
  @spec decapsulate(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          Mechanism.t(),
          iodata,
          Template.t(),
          keyword
        ) :: {:ok, Object.t()} | {:error, Error.t()}
  def decapsulate(pool, private_key, mechanism, ciphertext, template, opts) do
    ciphertext = {"ciphertext", ciphertext}
    kind = {:decapsulate, :decapsulate}
    open_key(pool, kind, private_key, mechanism, ciphertext, template, opts)
  end

  # A key that another key makes of bytes, which have a name as an argument.
  defp open_key(pool, {usage, operation}, key, mechanism, {name, bytes}, template, opts) do
    opts = Options.Call.validate!(opts, [:session_object, :select])
    encoded = Mechanism.encode_for!(usage, mechanism)
    class = Mechanism.class_for(usage, mechanism)
    template = Template.encode!(template)
    bytes = binary!(bytes, name)

    with {:ok, key} <- Selection.choose(pool, key, class, opts) do
      request = {operation, Selection.encode!(key, class, opts), encoded, bytes, template}
      make(pool, operation, template, request, opts, Mechanism.name(mechanism))
    end
  end

  defp make(pool, operation, template, request, opts, mechanism \\ nil) do
    with :ok <- check_lifetime(pool, template, opts),
         {:ok, object} <- Call.run(pool, operation, mechanism, request, opts) do
      {:ok, Object.from_native(object)}
    end
  end

  @doc """
  Gives attributes of an object new values.
  """
  @spec set_attributes(Pkcs11Pool.pool(), Pkcs11Pool.key(), Template.t(), keyword) ::
          :ok | {:error, Error.t()}
  def set_attributes(pool, object, template, opts) do
    opts = Options.Call.validate!(opts)
    request = {:set_attributes, Key.encode!(object, nil), Template.encode!(template)}
    Call.run(pool, :set_attributes, nil, request, opts)
  end

  # A session object would die with the session that happened to make it: it is refused, unless the caller has a session or says that it is meant so.
  defp check_lifetime(_pool, _template, %{session_object: :allow}), do: :ok
  defp check_lifetime(%Lease{}, _template, _opts), do: :ok

  defp check_lifetime(pool, template, opts) do
    if List.keyfind(template, @token, 0) == {@token, true} or Lease.current(pool) != nil or
         allows_session_objects?(pool, opts),
       do: :ok,
       else: {:error, Error.new(:session_object_needs_session, pool: pool, executed: false)}
  end

  defp allows_session_objects?(pool, %{session_object: nil}),
    do: match?({:ok, _server, %{session_object: :allow}}, Registry.lookup(pool))

  defp allows_session_objects?(_pool, _opts), do: false

  @doc """
  The objects that match a template.
  """
  @spec find(Pkcs11Pool.pool(), Template.t(), keyword) ::
          {:ok, [Object.t()]} | {:error, Error.t()}
  def find(pool, template, opts) do
    opts = Options.Call.validate!(opts, [:limit])
    template = Template.encode!(template)
    request = {:find_objects, template, opts.limit || @most_found, opts.limit != nil}

    with {:ok, objects} <- Call.run(pool, :find_objects, nil, request, opts) do
      {:ok, Enum.map(objects, &Object.from_native/1)}
    end
  end

  @doc """
  The size of an object.
  """
  @spec size(Pkcs11Pool.pool(), Pkcs11Pool.key(), keyword) ::
          {:ok, non_neg_integer | :unavailable} | {:error, Error.t()}
  def size(pool, object, opts) do
    opts = Options.Call.validate!(opts)
    Call.run(pool, :object_size, nil, {:object_size, Key.encode!(object, nil)}, opts)
  end

  @doc """
  Destroys an object.
  """
  @spec destroy(Pkcs11Pool.pool(), Pkcs11Pool.key(), keyword) :: :ok | {:error, Error.t()}
  def destroy(pool, object, opts) do
    opts = Options.Call.validate!(opts)
    Call.run(pool, :destroy_object, nil, {:destroy_object, Key.encode!(object, nil)}, opts)
  end
end
