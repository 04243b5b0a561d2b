defmodule Pkcs11Pool.Template do
  @moduledoc """
  Templates: the attributes of an object, as a list of `{name, value}`.

      [class: :private_key, key_type: :ec, label: "signing", id: <<1>>, token: true]

  A *name* is PKCS#11's in lower case without `CKA_` (all of PKCS#11 3.2), or `{:vendor, number}`.
  The table says what a value may be, and what `Pkcs11Pool.get_attributes/4` returns:

  | kind | attributes | in a template | read back |
  |---|---|---|---|
  | boolean | `:token`, `:private`, `:sensitive`, `:sign`, ... | `true`, `false` | the same |
  | string | `:label`, `:application`, `:url`, ... | UTF-8 string | string |
  | bytes | `:id`, `:value`, `:subject`, `:ec_point`, ... | binary | binary |
  | big integer | `:modulus`, `:public_exponent`, `:prime`, ... | non-negative integer, or its big-endian bytes | integer |
  | number (`CK_ULONG`) | `:value_len`, `:modulus_bits`, ... | non-negative integer | integer |
  | class | `:class` | `:private_key`, `:public_key`, `:secret_key`, `:certificate`, `:data`, ... (`CKO_` in lower case), or a number | atom, or a number without a name |
  | key type | `:key_type` | `:rsa`, `:ec`, `:aes`, `:generic_secret`, `:ec_edwards`, ... (`CKK_`), or a number | atom, or a number without a name |
  | certificate type | `:certificate_type` | `:x_509`, ... (`CKC_`), or a number | atom, or a number without a name |
  | parameter set | `:parameter_set` | `:ml_dsa_65`, `:ml_kem_768`, `:slh_dsa_sha2_128s`, ... (`CKP_`), or a number | atom, or a number without a name |
  | enumeration | `:certificate_category` (`CK_CERTIFICATE_CATEGORY_`), `:java_midp_security_domain` (`CK_SECURITY_DOMAIN_`), `:hw_feature_type` (`CKH_`), `:profile_id` (`CKP_`), `:otp_format` (`CK_OTP_FORMAT_`), `:otp_pin_requirement` and similar ones (`CK_OTP_PARAM_`), `:validation_type` (`CKV_TYPE_`), `:validation_authority_type` (`CKV_AUTHORITY_TYPE_`), `:trust_server_auth` and similar ones (`CKT_`) | the standard's name in lower case without that prefix, or a number | atom, or a number without a name |
  | version | `:validation_version` | `{major, minor}` | the same |
  | date | `:start_date`, `:end_date` | `Date`, `""` for none, or 8 digits YYYYMMDD | `Date`, or the bytes if they are not a date |
  | curve | `:ec_params` | a name as `:public_key` has it (`:secp256r1`, `:brainpoolP256r1`, `:ed25519`, `:x25519`, ...), or DER | DER |
  | mechanism | `:key_gen_mechanism`, ... | a mechanism's name, `{:vendor, number}` or a number | name or `{:vendor, number}` |
  | mechanisms | `:allowed_mechanisms` | a list of those | list |
  | template | `:wrap_template`, `:unwrap_template`, `:derive_template`, ... | a template | template |
  | vendor's | `{:vendor, number}` | boolean, non-negative integer (as `CK_ULONG`) or binary | binary |

  If the token does not have a number (`CK_UNAVAILABLE_INFORMATION`, such as the
  `:key_gen_mechanism` of an imported key), nil is returned. If the bytes that the token returns do not fit
  the kind of the attribute, the bytes are returned.

  A malformed template raises `ArgumentError` with the attribute's name and what was
  expected. The message never shows a value, only its type.
  """

  alias Pkcs11Pool.Argument.{DER, Suggestion}
  alias Pkcs11Pool.Mechanism
  alias Pkcs11Pool.Table.{Attributes, Constants, Curves}

  @type name :: atom | {:vendor, non_neg_integer}
  @type t :: [{name, term}]

  @type encoded :: [{code :: non_neg_integer, encoded_value}]
  @type encoded_value ::
          boolean
          | {:ulong, non_neg_integer}
          | {:ulongs, [non_neg_integer]}
          | {:template, encoded}
          | binary

  @names for {name, _code, _kind} <- Attributes.all(), do: name
  @max_ulong Bitwise.bsl(1, 8 * :erlang.system_info(:wordsize)) - 1
  @enumerations [
                  class: Constants.classes(),
                  key_type: Constants.key_types(),
                  certificate_type: Constants.certificate_types()
                ] ++ Constants.enumerations()
  @enumeration_kinds Keyword.keys(@enumerations)
  @parameter_sets for {_key_type, sets} <- Constants.parameter_sets(), set <- sets, do: set

  @curves for {name, oid} <- Curves.all(), into: %{}, do: {name, DER.encode_oid(oid)}
  @curve_names Keyword.keys(Curves.all())

  @doc """
  The template as numbers and values for the native side, in the order given.
  """
  @spec encode!(t) :: encoded
  def encode!([]), do: []

  def encode!([_ | _] = template) do
    encoded = encode_all!(template, 1)
    if duplicate?(encoded), do: duplicate!(encoded)
    encoded
  end

  def encode!(other) do
    raise ArgumentError, "expected a template, a list of {name, value}, got: #{shape(other)}"
  end

  @doc """
  The number of an attribute. Raises `ArgumentError` for an unknown name.
  """
  @spec name!(name) :: code :: non_neg_integer
  for {name, code, _kind} <- Attributes.all() do
    def name!(unquote(name)), do: unquote(code)
  end

  def name!({:vendor, code}) when is_integer(code) and code >= 0 and code <= @max_ulong, do: code
  def name!(name), do: unknown!(name)

  @doc """
  The name of an attribute's number; `{:vendor, number}` for one that the standard does not name.
  """
  @spec name(code :: non_neg_integer) :: name
  for {name, code, _kind} <- Enum.uniq_by(Attributes.all(), &elem(&1, 1)) do
    def name(unquote(code)), do: unquote(name)
  end

  def name(code) when is_integer(code) and code >= 0, do: {:vendor, code}

  @doc """
  An attribute as the token returned it, as name and value. Nested templates come as a list of
  number and binary.
  """
  @spec decode(code :: non_neg_integer, binary | [{non_neg_integer, binary}]) :: {name, term}
  def decode(code, value), do: {name(code), decode_value(kind(code), value)}

  @doc """
  The name of an object class's number, or the number.
  """
  @spec class(non_neg_integer) :: atom | non_neg_integer
  def class(number), do: enumeration_name(:class, number)

  @doc """
  The name of a key type's number, or the number.
  """
  @spec key_type(non_neg_integer) :: atom | non_neg_integer
  def key_type(number), do: enumeration_name(:key_type, number)

  @doc """
  The name of a parameter set (`CKA_PARAMETER_SET`) of a key of this type, or its number: the same number means others for others.
  """
  @spec parameter_set(number, key_type :: term) :: atom | number when number: term
  def parameter_set(number, key_type)

  for {key_type, sets} <- Constants.parameter_sets(), {name, code} <- sets do
    def parameter_set(unquote(code), unquote(key_type)), do: unquote(name)
  end

  def parameter_set(number, _key_type), do: number

  @doc """
  The number of an object class. Raises `ArgumentError` for an unknown name.
  """
  @spec class!(atom | non_neg_integer) :: non_neg_integer
  def class!(class) do
    {:ulong, code} = encode_value!(:class, :class, class)
    code
  end

  # Encoding

  defp encode_all!([{name, value} | rest], position) do
    code = name!(name)
    [{code, encode_value!(kind(code), name, value)} | encode_all!(rest, position + 1)]
  end

  defp encode_all!([], _position), do: []

  defp encode_all!([other | _rest], position) do
    raise ArgumentError,
          "element #{position} of the template is malformed: expected {name, value}, " <>
            "got: #{shape(other)}"
  end

  defp encode_all!(_improper, position) do
    raise ArgumentError,
          "the template is malformed: expected a proper list of {name, value}, it ends " <>
            "improperly after element #{position - 1}"
  end

  defp duplicate?([]), do: false
  defp duplicate?([{code, _value} | rest]), do: List.keymember?(rest, code, 0) or duplicate?(rest)

  @spec duplicate!(encoded) :: no_return
  defp duplicate!(encoded) do
    codes = Enum.map(encoded, &elem(&1, 0))
    [code | _rest] = codes -- Enum.uniq(codes)
    raise ArgumentError, "attribute #{inspect(name(code))} occurs more than once in the template"
  end

  for {_name, code, kind} <- Enum.uniq_by(Attributes.all(), &elem(&1, 1)) do
    defp kind(unquote(code)), do: unquote(kind)
  end

  defp kind(_code), do: :vendor

  defp encode_value!(:bool, _name, value) when is_boolean(value), do: value

  defp encode_value!(:ulong, _name, value)
       when is_integer(value) and value >= 0 and value <= @max_ulong,
       do: {:ulong, value}

  defp encode_value!(:bytes, _name, value) when is_binary(value), do: value

  defp encode_value!(:string, name, value) when is_binary(value) do
    if String.valid?(value), do: value, else: bad!(name, :string, value)
  end

  defp encode_value!(:bigint, _name, value) when is_binary(value), do: value

  defp encode_value!(:bigint, _name, value) when is_integer(value) and value >= 0,
    do: :binary.encode_unsigned(value)

  defp encode_value!(:date, _name, %Date{calendar: Calendar.ISO, year: year} = date)
       when year in 0..9999,
       do: Date.to_iso8601(date, :basic)

  defp encode_value!(:date, _name, ""), do: ""

  defp encode_value!(:date, name, value) when byte_size(value) == 8 do
    if is_struct(to_date(value)), do: value, else: bad!(name, :date, value)
  end

  defp encode_value!(kind, name, value) when kind in [:parameter_set | @enumeration_kinds] do
    case enumeration_code(kind, value) do
      code when is_integer(code) and code >= 0 and code <= @max_ulong -> {:ulong, code}
      _unknown -> bad!(name, kind, value)
    end
  end

  defp encode_value!(:ec_params, _name, value) when is_binary(value), do: value

  defp encode_value!(:ec_params, name, value) when is_atom(value) do
    case @curves do
      %{^value => der} -> der
      _unknown -> bad!(name, :ec_params, value)
    end
  end

  defp encode_value!(:version, _name, {major, minor})
       when major in 0..255 and minor in 0..255,
       do: <<major, minor>>

  defp encode_value!(:mechanism, name, value), do: {:ulong, mechanism!(name, value)}

  defp encode_value!(:mechanisms, name, value) when is_list(value) and length(value) >= 0,
    do: {:ulongs, Enum.map(value, &mechanism!(name, &1))}

  defp encode_value!(:ulongs, name, value) when is_list(value) and length(value) >= 0 do
    numbers? = Enum.all?(value, &(is_integer(&1) and &1 >= 0 and &1 <= @max_ulong))
    if numbers?, do: {:ulongs, value}, else: bad!(name, :ulongs, value)
  end

  defp encode_value!(:template, name, value) when is_list(value) do
    {:template, encode!(value)}
  rescue
    error in ArgumentError ->
      message = "in attribute #{inspect(name)}: " <> Exception.message(error)
      reraise ArgumentError, [message: message], __STACKTRACE__
  end

  defp encode_value!(:vendor, _name, value) when is_boolean(value) or is_binary(value), do: value

  defp encode_value!(:vendor, _name, value)
       when is_integer(value) and value >= 0 and value <= @max_ulong,
       do: {:ulong, value}

  defp encode_value!(kind, name, value), do: bad!(name, kind, value)

  defp mechanism!(name, value) do
    case Mechanism.code!(value) do
      code when code <= @max_ulong -> code
      _too_large -> bad!(name, :mechanism, value)
    end
  rescue
    error in ArgumentError ->
      message = "invalid value for attribute #{inspect(name)}: " <> Exception.message(error)
      reraise ArgumentError, [message: message], __STACKTRACE__
  end

  # Decoding

  defp decode_value(:bool, <<0>>), do: false
  defp decode_value(:bool, <<_true>>), do: true
  defp decode_value(:bigint, ""), do: ""
  defp decode_value(:bigint, value) when is_binary(value), do: :binary.decode_unsigned(value)
  defp decode_value(:version, <<major, minor>>), do: {major, minor}
  defp decode_value(:date, value) when is_binary(value), do: to_date(value)

  defp decode_value(kind, value) when kind in @enumeration_kinds and is_binary(value) do
    case to_ulong(value) do
      {:ok, number} -> enumeration_name(kind, number)
      other -> unavailable_or(other, value)
    end
  end

  defp decode_value(kind, value) when kind in [:ulong, :parameter_set] and is_binary(value) do
    case to_ulong(value) do
      {:ok, number} -> number
      other -> unavailable_or(other, value)
    end
  end

  defp decode_value(:mechanism, value) when is_binary(value) do
    case to_ulong(value) do
      {:ok, number} -> Mechanism.decode(number)
      other -> unavailable_or(other, value)
    end
  end

  defp decode_value(:ulongs, value) when is_binary(value), do: to_ulongs(value, & &1)

  defp decode_value(:mechanisms, value) when is_binary(value),
    do: to_ulongs(value, &Mechanism.decode/1)

  defp decode_value(_kind, value) when is_list(value),
    do: Enum.map(value, fn {code, nested} -> decode(code, nested) end)

  defp decode_value(_kind, value), do: value

  defp unavailable_or(:unavailable, _value), do: nil
  defp unavailable_or(:error, value), do: value

  # CK_ULONG is as long as C's unsigned long: 8 bytes, or 4 on Windows and 32-bit systems.
  defp to_ulong(<<0xFFFFFFFFFFFFFFFF::64>>), do: :unavailable
  defp to_ulong(<<0xFFFFFFFF::32>>), do: :unavailable
  defp to_ulong(<<number::native-unsigned-64>>), do: {:ok, number}
  defp to_ulong(<<number::native-unsigned-32>>), do: {:ok, number}
  defp to_ulong(_other), do: :error

  defp to_ulongs(value, fun) do
    size = :erlang.system_info(:wordsize)

    if rem(byte_size(value), size) == 0,
      do: for(<<number::native-unsigned-size(size)-unit(8) <- value>>, do: fun.(number)),
      else: value
  end

  defp to_date(<<year::binary-size(4), month::binary-size(2), day::binary-size(2)>> = value) do
    case Date.from_iso8601("#{year}-#{month}-#{day}") do
      {:ok, date} -> date
      {:error, _reason} -> value
    end
  end

  defp to_date(value), do: value

  for {kind, table} <- @enumerations ++ [parameter_set: @parameter_sets] do
    for {name, code} <- table do
      defp enumeration_code(unquote(kind), unquote(name)), do: unquote(code)
    end

    for {name, code} <- Enum.uniq_by(table, &elem(&1, 1)), kind != :parameter_set do
      defp enumeration_name(unquote(kind), unquote(code)), do: unquote(name)
    end

    defp known(unquote(kind)), do: unquote(Keyword.keys(table))
  end

  defp enumeration_code(_kind, value), do: value
  defp enumeration_name(_kind, number), do: number
  defp known(:ec_params), do: @curve_names
  defp known(_kind), do: []

  # Errors

  @spec unknown!(term) :: no_return
  defp unknown!({:vendor, _code}) do
    raise ArgumentError, "expected {:vendor, number} with a non-negative integer for an attribute"
  end

  defp unknown!(name) when is_atom(name) do
    raise ArgumentError,
          "unknown attribute #{inspect(name)}#{Suggestion.for(name, @names)} (names are PKCS#11's, " <>
            "in lower case without CKA_; a vendor's number is {:vendor, number})"
  end

  defp unknown!(name) do
    raise ArgumentError,
          "an attribute's name must be an atom or {:vendor, number}, got: #{shape(name)}"
  end

  @spec bad!(name, atom, term) :: no_return
  defp bad!(name, kind, value) do
    hint = Suggestion.for(value, known(kind))

    raise ArgumentError,
          "invalid value for attribute #{inspect(name)}: expected #{expected(kind)}, " <>
            "got: #{shape(value)}#{hint}"
  end

  defp expected(:bool), do: "true or false"
  defp expected(:ulong), do: "a non-negative integer (CK_ULONG)"
  defp expected(:ulongs), do: "a list of non-negative integers (CK_ULONG)"
  defp expected(:bytes), do: "a binary"
  defp expected(:string), do: "a UTF-8 string"
  defp expected(:bigint), do: "a non-negative integer, or its big-endian bytes"
  defp expected(:date), do: "a Date, or 8 digits YYYYMMDD"
  defp expected(:class), do: "an object class such as :private_key, or its number"
  defp expected(:key_type), do: "a key type such as :ec, or its number"
  defp expected(:certificate_type), do: "a certificate type such as :x_509, or its number"
  defp expected(:parameter_set), do: "a parameter set such as :ml_dsa_65, or its number"
  defp expected(:version), do: "a version, {major, minor}"

  defp expected(kind) when kind in @enumeration_kinds,
    do: "one of #{inspect(known(kind))}, or a number"

  defp expected(:mechanism), do: "a mechanism's name"
  defp expected(:mechanisms), do: "a list of mechanisms' names"
  defp expected(:template), do: "a template, a list of {name, value}"
  defp expected(:ec_params), do: "a curve's name such as :secp256r1, or DER"
  defp expected(:vendor), do: "a boolean, a non-negative integer (CK_ULONG) or a binary"

  # Values may be key material: only atoms and small numbers are shown.
  defp shape(value) when is_atom(value), do: inspect(value)
  defp shape(value) when is_integer(value) and abs(value) <= 0xFFFF, do: inspect(value)
  defp shape(value) when is_integer(value), do: "an integer"
  defp shape(value) when is_binary(value), do: "a binary of #{byte_size(value)} bytes"
  defp shape(value) when is_list(value), do: "a list"
  defp shape(value) when is_tuple(value), do: "a tuple of #{tuple_size(value)}"
  defp shape(%module{}), do: "a #{inspect(module)} struct"
  defp shape(value) when is_map(value), do: "a map"
  defp shape(_value), do: "another term"
end
