defmodule Pkcs11Pool.URI do
  @moduledoc """
  PKCS#11 URIs (RFC 7512), parsed and written. The `:slot` option and a call's `key` may be such a URI.

      pkcs11:token=payments;serial=8f3a20          a slot
      pkcs11:object=signing;type=private;id=%01    a key

  A slot is named by `token` (label), `serial`, `manufacturer`, `model`, `slot-id`,
  `slot-description`, `slot-manufacturer`, `library-manufacturer`, `library-description` and
  `library-version`; a key by `object` (label), `id` and `type` (`public`, `private`, `cert`,
  `secret-key`, `data`). `Pkcs11Pool.Object.to_uri/1` and `Pkcs11Pool.Token.to_uri/1` make URIs.

  `parse/1` takes every URI that the RFC allows, and what `format/1` writes can be parsed again. When a URI is *used*, as a `:slot` or as a key:

    * an attribute of the path that this library does not know, such as a vendor's, raises `ArgumentError`: by the RFC, nothing matches it
    * attributes of the query that this library does not know are ignored, as the RFC says
    * `pin-value` raises: the PIN would be in the supervisor's state, and in logs. Give the pool a `:pin` source
    * `pin-source=file:/path`, in a pool's `:slot`, is the pool's `:pin` if the pool has no `:pin` option. It is the same as `pin: {:file, "/path"}`: it is checked who may read the
      file. `pin-source=|command` raises, since this library starts no programs; so does everything else but a `file:` URI with an absolute path. In a key it raises
    * `module-path` and `module-name`, in a `:slot`, must name the same module as the `:module` option, and raise otherwise; they do not load a module. The path may be the module's folder;
      the name is compared without `lib`, suffix and case (`softhsm2` for `libsofthsm2.so`). In a key they raise, because a call does not choose the module

  Error messages never show a value. `inspect/1` does not show `pin-value`; `format/1` and `to_string/1` do write it.
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
  @query_attributes %{
    "pin-source" => :pin_source,
    "pin-value" => :pin_value,
    "module-name" => :module_name,
    "module-path" => :module_path
  }
  # As the examples of the RFC have them.
  @order ~w(token manufacturer serial model library-manufacturer library-description library-version slot-manufacturer slot-description slot-id object type id)
  @query_order ~w(pin-source pin-value module-name module-path)
  @names Map.values(@attributes)
  @key_names [:object, :id, :type]
  @slot_names @names -- @key_names
  @largest_slot Bitwise.bsl(1, 64) - 1

  @classes %{
    "public" => :public_key,
    "private" => :private_key,
    "cert" => :certificate,
    "secret-key" => :secret_key,
    "data" => :data
  }
  @types Map.new(@classes, fn {name, class} -> {class, name} end)

  # RFC 7512 2.3: what may stand for itself, beside letters and digits.
  @path_characters ~c"-._~:[]@!$'()*+,=&"
  @query_characters ~c"-._~:[]@!$'()*+,=/?|"

  defstruct @names ++ Map.values(@query_attributes) ++ [vendor: [], query: []]

  @typedoc """
  A parsed URI; an attribute that it does not have is nil. `:vendor` has the attributes of the path that this library does not know, `:query` those of the
  query. In the query an attribute may occur several times.
  """
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
          type: :public_key | :private_key | :certificate | :secret_key | :data | nil,
          pin_source: binary | nil,
          pin_value: binary | nil,
          module_name: binary | nil,
          module_path: binary | nil,
          vendor: [{name :: String.t(), binary}],
          query: [{name :: String.t(), binary}]
        }

  @typedoc "The attributes of a URI that are about slot, token and module. The keys are those of `t:t/0`."
  @type slot :: %{optional(atom) => String.t() | non_neg_integer}

  @doc """
  Parses a PKCS#11 URI: `{:ok, uri}`, or `{:error, message}` if RFC 7512 does not allow it. The message contains no value of the URI.

      iex> {:ok, uri} = Pkcs11Pool.URI.parse("pkcs11:object=a%20key;type=private?pin-source=file:/etc/pin")
      iex> {uri.object, uri.type, uri.pin_source}
      {"a key", :private_key, "file:/etc/pin"}
      iex> Pkcs11Pool.URI.parse("pkcs11:object=a;object=b")
      {:error, "invalid PKCS#11 URI: attribute object occurs more than once"}
  """
  @spec parse(String.t()) :: {:ok, t} | {:error, message :: String.t()}
  def parse(uri) do
    {:ok, parse!(uri)}
  rescue
    error in ArgumentError -> {:error, Exception.message(error)}
  end

  @doc """
  Parses a PKCS#11 URI like `parse/1`, but raises `ArgumentError`.

      iex> Pkcs11Pool.URI.parse!("pkcs11:object=a%20key;type=private").object
      "a key"
  """
  @spec parse!(String.t()) :: t
  def parse!(uri) when is_binary(uri) do
    {path, query} =
      if uri?(uri), do: split_query(binary_part(uri, 7, byte_size(uri) - 7)), else: no_uri!()

    %__MODULE__{}
    |> parse_path(attributes!(path, ";"))
    |> parse_query(attributes!(query, "&"))
    |> check_pin!()
  end

  def parse!(_other), do: no_uri!()

  @doc """
  Writes a URI; `parse/1` gives the same struct again. All bytes of the id are percent-encoded, as the RFC recommends; in other values only those that must be.

  Raises `ArgumentError` if the struct has a value that a parsed URI cannot have.

      iex> Pkcs11Pool.URI.format(%Pkcs11Pool.URI{token: "my token", id: <<1, 255>>, type: :private_key})
      "pkcs11:token=my%20token;type=private;id=%01%FF"
  """
  @spec format(t) :: String.t()
  def format(%__MODULE__{} = uri) do
    with {:ok, text} <- write(uri),
         # Whatever would not be read as it is meant.
         {:ok, ^uri} <- parse(text) do
      text
    else
      _other ->
        refuse!("a field has a value that cannot be written, or that does not belong there")
    end
  end

  defp write(uri) do
    path =
      for(name <- @order, do: {name, written(Map.fetch!(uri, @attributes[name]))}) ++ uri.vendor

    query =
      for(name <- @query_order, do: {name, Map.fetch!(uri, @query_attributes[name])}) ++ uri.query

    path = join(path, ";", @path_characters)
    query = join(query, "&", @query_characters)
    {:ok, IO.iodata_to_binary(["pkcs11:", path, if(query != [], do: ["?", query], else: [])])}
  rescue
    _malformed -> :error
  end

  @doc """
  Whether a string begins like a PKCS#11 URI. The scheme may be written in capitals (RFC 3986, 3.1).

      iex> Pkcs11Pool.URI.uri?("PKCS11:object=signing")
      true
  """
  @spec uri?(term) :: boolean
  # Most names are labels, each of which is asked: one look at the first letter.
  def uri?(<<first, scheme::binary-size(6), _rest::binary>>) when first in [?p, ?P],
    do: String.downcase(scheme, :ascii) == "kcs11:"

  def uri?(_other), do: false

  @doc false
  # A text that a URI can say; nil for others.
  @spec named(term) :: String.t() | nil
  def named(text) when is_binary(text) and text != "",
    do: if(String.valid?(text), do: text)

  def named(_other), do: nil

  @doc false
  # The class of an object, if a URI has a word for it.
  @spec type(term) :: atom | nil
  def type(class) when is_map_key(@types, class), do: class
  def type(_other), do: nil

  @doc """
  The template of the key that a URI names: `:class` from `type`, `:label` from `object`, `:id`. Raises `ArgumentError` for a URI that nothing matches.
  """
  @spec to_template(t) :: Pkcs11Pool.Template.t()
  def to_template(%__MODULE__{} = uri) do
    check_known!(uri)

    for {name, value} <- [class: uri.type, label: uri.object, id: uri.id], value != nil do
      {name, value}
    end
  end

  @doc """
  What a URI says of slot, token and module; empty when it names none. Raises `ArgumentError` for a URI that nothing matches.
  """
  @spec to_slot(t) :: slot
  def to_slot(%__MODULE__{} = uri) do
    check_known!(uri)

    for name <- @slot_names, value = Map.fetch!(uri, name), value != nil, into: %{} do
      {name, comparable(name, value)}
    end
  end

  # RFC 7512, 2.5: what is unrecognized in the path matches nothing.
  defp check_known!(%{vendor: []}), do: :ok

  defp check_known!(%{vendor: [{name, _value} | _others]}) do
    refuse!(
      "unknown attribute #{name}, valid attributes are: " <>
        Enum.join(Enum.sort(Map.keys(@attributes)), ", ")
    )
  end

  @doc false
  # For a key: what belongs to a pool does not belong to a call.
  @spec check_key!(t) :: t
  def check_key!(%__MODULE__{} = uri) do
    cond do
      uri.pin_value || uri.pin_source ->
        name = if uri.pin_value, do: "pin-value", else: "pin-source"
        refuse!("#{name} is not accepted: a PIN belongs in the :pin option of the pool")

      uri.module_path || uri.module_name ->
        name = if uri.module_path, do: "module-path", else: "module-name"
        refuse!("#{name} is not accepted: the module belongs in the :module option of the pool")

      true ->
        uri
    end
  end

  @doc false
  # The file that a URI's `pin-source` names; nil where it has none.
  @spec pin_file!(t) :: Path.t() | nil
  def pin_file!(%__MODULE__{pin_value: pin}) when pin != nil do
    refuse!(
      "pin-value is not accepted: the PIN would sit in the supervisor's state; a PIN belongs in the :pin option of the pool, " <>
        "such as {:file, path} or a function, or in a file that pin-source names"
    )
  end

  def pin_file!(%__MODULE__{pin_source: nil}), do: nil

  def pin_file!(%__MODULE__{pin_source: "|" <> _command}) do
    refuse!(
      "pin-source is a command, and this library starts no programs: give the :pin option of the pool a function that does, " <>
        "or name a file, as in pin-source=file:/run/secrets/pin"
    )
  end

  def pin_file!(%__MODULE__{pin_source: source}) do
    with [_all, path] <-
           Regex.run(~r/\Afile:(?:\/\/(?:localhost)?)?(\/(?!\/)[^?#]*)\z/is, source),
         {:ok, path} <- decode_path(path) do
      path
    else
      _no_file ->
        refuse!(
          "pin-source must be a file: URI of an absolute path, as in pin-source=file:/run/secrets/pin; " <>
            "everything else belongs in the :pin option of the pool"
        )
    end
  end

  # A URI within a URI. Not all versions of Elixir refuse what is malformed.
  defp decode_path(path) do
    decoded = URI.decode(path)

    if path =~ ~r/%(?![0-9A-F]{2})/i or String.contains?(decoded, <<0>>),
      do: :error,
      else: {:ok, decoded}
  rescue
    ArgumentError -> :error
  end

  @doc false
  # Whether what a URI says of the module is said of this one.
  @spec check_module!(t, Path.t()) :: :ok
  def check_module!(%__MODULE__{} = uri, module) do
    unless uri.module_path == nil or
             Path.expand(uri.module_path) in [
               Path.expand(module),
               Path.expand(Path.dirname(module))
             ],
           do: other_module!("module-path")

    unless uri.module_name == nil or module_name(uri.module_name) == module_name(module),
      do: other_module!("module-name")

    :ok
  end

  defp module_name(path) do
    path
    |> Path.basename()
    |> String.downcase()
    |> String.replace(~r/\.(so|dylib|dll)(\.[0-9.]+)?\z/, "")
    |> String.replace_prefix("lib", "")
  end

  @spec other_module!(String.t()) :: no_return
  defp other_module!(name) do
    refuse!(
      "#{name} names another module than the :module option, which is the one that is loaded: leave it out, or make them agree"
    )
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

  defp parse_path(uri, attributes) do
    Enum.reduce(attributes, uri, fn {name, value}, parsed ->
      if is_map_key(@query_attributes, name), do: misplaced!(name)
      decoded = decode!(name, value, @path_characters)

      case @attributes do
        %{^name => key} ->
          if Map.fetch!(parsed, key) != nil, do: repeated!(name)
          Map.replace!(parsed, key, value!(key, name, decoded))

        _unknown ->
          name!(name)
          if List.keymember?(parsed.vendor, name, 0), do: repeated!("of a vendor")
          %{parsed | vendor: parsed.vendor ++ [{name, decoded}]}
      end
    end)
  end

  # A vendor's may come more than once.
  defp parse_query(uri, attributes) do
    parsed =
      Enum.reduce(attributes, uri, fn {name, value}, parsed ->
        decoded = decode!(name, value, @query_characters)

        case @query_attributes do
          %{^name => key} ->
            if Map.fetch!(parsed, key) != nil, do: repeated!(name)
            Map.replace!(parsed, key, decoded)

          _unknown ->
            name!(name)
            %{parsed | query: [{name, decoded} | parsed.query]}
        end
      end)

    %{parsed | query: Enum.reverse(parsed.query)}
  end

  # RFC 7512, 2.4.
  defp check_pin!(%{pin_value: value, pin_source: source}) when value != nil and source != nil,
    do: refuse!("it has both pin-value and pin-source")

  defp check_pin!(uri), do: uri

  defp name!(name) do
    unless name =~ ~r/\A[A-Za-z0-9_-]+\z/,
      do: refuse!("an attribute's name has a character that is not allowed")
  end

  @spec repeated!(String.t()) :: no_return
  defp repeated!(name), do: refuse!("attribute #{name} occurs more than once")

  @spec misplaced!(String.t()) :: no_return
  defp misplaced!(name) do
    hint = if name =~ "pin", do: " (and a PIN better in the :pin option of the pool)", else: ""
    refuse!("#{name} belongs in the query, behind a question mark" <> hint)
  end

  ## Writing

  defp written(nil), do: nil
  defp written(type) when is_map_key(@types, type), do: @types[type]
  defp written(number) when is_integer(number), do: Integer.to_string(number)
  defp written(value) when is_binary(value), do: value

  defp join(attributes, separator, characters) do
    for(
      {name, value} <- attributes,
      value != nil,
      do: [name, "=", encode(name, value, characters)]
    )
    |> Enum.intersperse(separator)
  end

  defp encode("id", value, _characters),
    do: for(<<byte <- value>>, do: percent(byte))

  defp encode(_name, value, characters) do
    for <<byte <- value>> do
      if byte in ?a..?z or byte in ?A..?Z or byte in ?0..?9 or byte in characters,
        do: byte,
        else: percent(byte)
    end
  end

  defp percent(byte), do: ["%", Base.encode16(<<byte>>)]

  ## Values

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

  @spec no_uri!() :: no_return
  defp no_uri!, do: refuse!("expected a string that starts with pkcs11:")

  @spec refuse!(String.t()) :: no_return
  defp refuse!(why), do: raise(ArgumentError, "invalid PKCS#11 URI: " <> why)

  defimpl String.Chars do
    def to_string(uri), do: Pkcs11Pool.URI.format(uri)
  end

  defimpl Inspect do
    import Inspect.Algebra

    def inspect(uri, opts) do
      fields =
        for {name, value} <- uri |> Map.from_struct() |> Enum.sort(), value not in [nil, []] do
          {name, if(name == :pin_value, do: :withheld, else: value)}
        end

      container_doc("#Pkcs11Pool.URI<", fields, ">", opts, fn {name, value}, opts ->
        concat("#{name}: ", to_doc(value, opts))
      end)
    end
  end
end
