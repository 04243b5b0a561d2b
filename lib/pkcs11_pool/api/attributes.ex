defmodule Pkcs11Pool.API.Attributes do
  @moduledoc false
  # The attributes of an object, read from the token, and the public key that they tell.

  alias Pkcs11Pool.API.Selection
  alias Pkcs11Pool.Argument.Key
  alias Pkcs11Pool.{Call, Error, Object, Options, PublicKey, Template}

  @parameter_set Template.name!(:parameter_set)
  @key_type Template.name!(:key_type)

  @doc """
  Reads attributes of an object, by their names. `class` is the class of the object unless the key names one itself.
  """
  @spec read(
          Pkcs11Pool.pool(),
          Pkcs11Pool.key(),
          class :: atom | nil,
          [Template.name()],
          Options.Call.t()
        ) :: {:ok, %{optional(Template.name()) => term}} | {:error, Error.t()}
  def read(pool, object, class, names, opts) do
    codes = codes!(names)

    with {:ok, object} <- Selection.choose(pool, object, class, opts),
         do: read_encoded(pool, Selection.encode!(object, class, opts), codes, opts)
  end

  @doc """
  The same of an object in the form that the native side takes, by the attributes' numbers.
  """
  @spec read_encoded(Pkcs11Pool.pool(), Key.encoded(), [non_neg_integer], Options.Call.t()) ::
          {:ok, %{optional(Template.name()) => term}} | {:error, Error.t()}
  def read_encoded(pool, object, codes, opts) do
    # What the number of a parameter set means, the key type says.
    asked =
      codes ++ if(@parameter_set in codes and @key_type not in codes, do: [@key_type], else: [])

    request = {:get_attributes, object, asked}

    with {:ok, attributes} <- Call.run(pool, :get_attributes, nil, request, opts) do
      {attributes, further} = Enum.split(attributes, length(codes))

      case for({code, why} when is_atom(why) <- attributes, do: {Template.name(code), why}) do
        [_ | _] = unreadable when not opts.partial -> {:error, error(pool, unreadable)}
        _none_or_allowed -> {:ok, attributes |> Map.new(&decode/1) |> name_parameter_set(further)}
      end
    end
  end

  defp codes!(names) when is_list(names) and length(names) >= 0,
    do: Enum.map(names, &Template.name!/1)

  defp codes!(_other) do
    raise ArgumentError, "expected a list of attributes' names, such as [:label, :id]"
  end

  defp name_parameter_set(%{parameter_set: number} = attributes, further) do
    key_type =
      Map.get_lazy(attributes, :key_type, fn -> further |> hd() |> decode() |> elem(1) end)

    %{attributes | parameter_set: Template.parameter_set(number, key_type)}
  end

  defp name_parameter_set(attributes, _none), do: attributes

  defp decode({code, why}) when is_atom(why), do: {Template.name(code), :unavailable}
  defp decode({code, value}), do: Template.decode(code, value)

  defp error(pool, unreadable) do
    reason =
      if List.keymember?(unreadable, :sensitive, 1),
        do: :attribute_sensitive,
        else: :attribute_type_invalid

    details = %{attributes: for({name, _why} <- unreadable, do: name)}

    Error.new(reason, pool: pool, function: :C_GetAttributeValue, executed: true, details: details)
  end

  @doc """
  Reads the public key of a key: from the public key's object, or else from the private key's.
  """
  @spec read_public_key(Pkcs11Pool.pool(), Pkcs11Pool.key(), Options.Call.t()) ::
          {:ok, PublicKey.t()} | {:error, Error.t()}
  def read_public_key(pool, key, opts) do
    opts = %{opts | partial: true}

    case read_public_half(pool, key, :public_key, opts) do
      :error ->
        {:error, no_public_key(pool)}

      {:error, %Error{reason: :key_not_found} = error} when not is_struct(key, Object) ->
        # A private key that does not tell its public half is as good as none here.
        with :error <- read_public_half(pool, key, :private_key, opts), do: {:error, error}

      result ->
        result
    end
  end

  defp read_public_half(pool, key, class, opts) do
    with {:ok, key} <- Selection.choose(pool, key, class, opts),
         {:ok, attributes} <- read(pool, key, class, PublicKey.attributes(), opts) do
      if PublicKey.post_quantum?(attributes),
        do: read_post_quantum(pool, key, class, opts),
        else: with(:error <- PublicKey.decode(attributes), do: read_info(pool, key, class, opts))
    end
  end

  # PKCS#11 3.0, 4.9: a private key may have its public half's SubjectPublicKeyInfo.
  defp read_info(pool, key, class, opts) do
    with {:ok, attributes} <- read(pool, key, class, [:public_key_info], opts),
         do: PublicKey.decode_info(attributes.public_key_info)
  end

  # A public key's CKA_VALUE is the key; a private key's is the secret, and is not read.
  defp read_post_quantum(pool, key, class, opts) do
    read = &read(pool, key, class, &1, opts)

    with {:ok, attributes} <- read.([:class, :public_key_info]),
         :error <- PublicKey.decode_info(attributes.public_key_info) do
      if attributes.class == :public_key do
        with {:ok, attributes} <- read.([:class, :key_type, :parameter_set, :value]),
             do: PublicKey.decode_post_quantum(attributes)
      else
        :error
      end
    end
  end

  defp no_public_key(pool) do
    details = %{cause: :no_public_key}
    Error.new(:key_type_inconsistent, pool: pool, executed: true, details: details)
  end
end
