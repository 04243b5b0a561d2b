defmodule Pkcs11Pool.URI do
  @moduledoc """
  PKCS#11 URIs (RFC 7512), as the `:slot` option and a call's `key` take them.

      pkcs11:token=payments;serial=8f3a20          a slot
      pkcs11:object=signing;type=private;id=%01    a key

  A slot is named by `token` (label), `serial`, `manufacturer`, `model`, `slot-id`,
  `slot-description`, `slot-manufacturer`, `library-manufacturer`, `library-description` and
  `library-version`; a key by `object` (label), `id` and `type` (`public`, `private`, `cert`,
  `secret-key`, `data`).

  Refused, with a message that shows no value: `pin-value` and `pin-source` (the PIN belongs in the
  `:pin` option), `module-path` and `module-name` (the module belongs in `:module`), an attribute
  that this library does not know (it could never match), duplicates, and what RFC 7512 calls
  malformed. Other query attributes are ignored, as RFC 7512 asks.
  """

  @attributes %{
    "token" => :token,
    "serial" => :serial,
    "manufacturer" => :manufacturer,
    "model" => :model,
    "slot-id" => :slot_id,
    "slot-description" => :slot_description,
    "slot-manufacturer" => :slot_manufacturer,
    "library-manufacturer" => :library_manufacturer,
    "library-description" => :library_description,
    "library-version" => :library_version,
    "object" => :object,
    "id" => :id,
    "type" => :type
  }
  @names Map.values(@attributes)
  @key_names [:object, :id, :type]
  @largest_slot Bitwise.bsl(1, 64) - 1

  @classes %{
    "public" => :public_key,
    "private" => :private_key,
    "cert" => :certificate,
    "secret-key" => :secret_key,
    "data" => :data
  }

  # RFC 7512 2.3: what may stand for itself, beside letters and digits.
  @path_characters ~c"-._~:[]@!$'()*+,=&"
  @query_characters ~c"-._~:[]@!$'()*+,=/?|"

  defstruct @names

  @typedoc "A parsed URI; nil for an attribute that it does not have."
  @type t :: %__MODULE__{
          token: String.t() | nil,
          serial: String.t() | nil,
          manufacturer: String.t() | nil,
          model: String.t() | nil,
          slot_id: non_neg_integer | nil,
          slot_description: String.t() | nil,
          slot_manufacturer: String.t() | nil,
          library_manufacturer: String.t() | nil,
          library_description: String.t() | nil,
          library_version: String.t() | nil,
          object: String.t() | nil,
          id: binary | nil,
          type: :public_key | :private_key | :certificate | :secret_key | :data | nil
        }

  @typedoc "What a URI says of slot, token and module: its keys are those of `t:t/0`."
  @type slot :: %{optional(atom) => String.t() | non_neg_integer}

  @doc """
  Parses a PKCS#11 URI. Raises `ArgumentError` as told above.

      iex> Pkcs11Pool.URI.parse!("pkcs11:object=a%20key;type=private").object
      "a key"
  """
  @spec parse!(String.t()) :: t
  def parse!(uri) when is_binary(uri) do
    {path, query} =
      if uri?(uri), do: split_query(binary_part(uri, 7, byte_size(uri) - 7)), else: no_uri!()

    # The query first: a PIN in it is the most urgent thing to say.
    check_query!(query)

    for {name, value} <- attributes!(path, ";"), reduce: %__MODULE__{} do
      parsed ->
        key = Map.get(@attributes, name) || unknown!(name)
        if Map.fetch!(parsed, key) != nil, do: refuse!("attribute #{name} occurs more than once")
        Map.replace!(parsed, key, value!(key, name, decode!(name, value, @path_characters)))
    end
  end

  def parse!(_other), do: no_uri!()

  @doc """
  Whether a string begins like a PKCS#11 URI. The scheme may be written in capitals (RFC 3986, 3.1).

      iex> Pkcs11Pool.URI.uri?("PKCS11:object=signing")
      true
  """
  @spec uri?(term) :: boolean
  def uri?(<<scheme::binary-size(7), _rest::binary>>),
    do: String.downcase(scheme, :ascii) == "pkcs11:"

  def uri?(_other), do: false

  @doc """
  The template of the key that a URI names: `:class` from `type`, `:label` from `object`, `:id`.
  """
  @spec to_template(t) :: Pkcs11Pool.Template.t()
  def to_template(%__MODULE__{} = uri) do
    for {name, value} <- [class: uri.type, label: uri.object, id: uri.id], value != nil do
      {name, value}
    end
  end

  @doc """
  What a URI says of slot, token and module; empty when it names none.
  """
  @spec to_slot(t) :: slot
  def to_slot(%__MODULE__{} = uri) do
    for {name, value} <- Map.from_struct(uri), name not in @key_names, value != nil, into: %{} do
      {name, comparable(name, value)}
    end
  end

  # RFC 7512, 2.3: without a minor number it is 0. Versions are numbers: 3.04 is 3.4.
  defp comparable(:library_version, version) do
    case numbers(version) do
      [major] -> "#{major}.0"
      [major, minor] -> "#{major}.#{minor}"
    end
  end

  defp comparable(_name, value), do: value

  defp numbers(version),
    do: for(number <- String.split(version, "."), do: String.to_integer(number))

  defp split_query(rest) do
    case String.split(rest, "?", parts: 2) do
      [path] -> {path, ""}
      [path, query] -> {path, query}
    end
  end

  defp attributes!("", _separator), do: []

  defp attributes!(component, separator) do
    for attribute <- String.split(component, separator) do
      case String.split(attribute, "=", parts: 2) do
        [name, value] when name != "" -> {name, value}
        _malformed -> refuse!("expected name=value, separated by \"#{separator}\"")
      end
    end
  end

  # A vendor's query attributes may come more than once.
  defp check_query!(query) do
    Enum.each(attributes!(query, "&"), fn {name, value} ->
      check_query_name!(name)
      decode!(name, value, @query_characters)
    end)
  end

  defp check_query_name!(name) when name in ["pin-value", "pin-source"] do
    refuse!("#{name} is not accepted: a PIN belongs in the :pin option of the pool")
  end

  defp check_query_name!(name) when name in ["module-path", "module-name"] do
    refuse!("#{name} is not accepted: the module belongs in the :module option of the pool")
  end

  defp check_query_name!(_ignored), do: :ok

  defp value!(:id, _name, value), do: value

  defp value!(:slot_id, name, value) do
    # Nobody writes more zeros before it; a number of a million digits takes seconds to read.
    with true <- value =~ ~r/\A[0-9]{1,40}\z/,
         number = String.to_integer(value),
         true <- number <= @largest_slot do
      number
    else
      _no_slot -> refuse!("attribute #{name} must be a decimal number of at most 64 bits")
    end
  end

  defp value!(:library_version, name, value) do
    with true <- value =~ ~r/\A[0-9]{1,20}(\.[0-9]{1,20})?\z/,
         true <- Enum.all?(numbers(value), &(&1 <= 255)) do
      value
    else
      false ->
        refuse!("attribute #{name} must be a version such as 3 or 3.1, of numbers up to 255")
    end
  end

  defp value!(:type, name, value) do
    Map.get(@classes, value) ||
      refuse!("attribute #{name} must be one of public, private, cert, secret-key, data")
  end

  defp value!(_string, name, value) do
    if String.valid?(value),
      do: value,
      else: refuse!("attribute #{name} must be UTF-8, percent-encoded")
  end

  defp decode!(name, value, characters), do: decode!(value, name, characters, "")

  defp decode!(<<?%, high, low, rest::binary>>, name, characters, decoded) do
    case Base.decode16(<<high, low>>, case: :mixed) do
      {:ok, byte} -> decode!(rest, name, characters, decoded <> byte)
      :error -> refuse!("attribute #{shown(name)} has malformed percent-encoding")
    end
  end

  defp decode!(<<?%, _rest::binary>>, name, _characters, _decoded),
    do: refuse!("attribute #{shown(name)} has malformed percent-encoding")

  defp decode!(<<byte, rest::binary>>, name, characters, decoded)
       when byte in ?a..?z or byte in ?A..?Z or byte in ?0..?9,
       do: decode!(rest, name, characters, <<decoded::binary, byte>>)

  defp decode!(<<byte, rest::binary>>, name, characters, decoded) do
    if byte in characters,
      do: decode!(rest, name, characters, <<decoded::binary, byte>>),
      else: refuse!("attribute #{shown(name)} has a character that must be percent-encoded")
  end

  defp decode!("", _name, _characters, decoded), do: decoded

  # What stands left of "=" in a malformed URI might be anything, a PIN included.
  defp shown(name) when is_map_key(@attributes, name), do: name
  defp shown(_name), do: "in the query"

  @spec unknown!(String.t()) :: no_return
  defp unknown!(name) do
    if name =~ ~r/\A[A-Za-z0-9_-]+\z/ do
      if name in ["pin-value", "pin-source", "module-path", "module-name"],
        do: check_query_name!(name)

      refuse!(
        "unknown attribute #{name}, valid attributes are: " <>
          Enum.join(Enum.sort(Map.keys(@attributes)), ", ")
      )
    else
      refuse!("an attribute's name has a character that is not allowed")
    end
  end

  @spec no_uri!() :: no_return
  defp no_uri!, do: refuse!("expected a string that starts with pkcs11:")

  @spec refuse!(String.t()) :: no_return
  defp refuse!(why), do: raise(ArgumentError, "invalid PKCS#11 URI: " <> why)
end
