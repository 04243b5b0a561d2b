defmodule Pkcs11Pool.Argument.Key do
  @moduledoc false
  # A call's `key` argument, as the native side takes it.

  import Pkcs11Pool.Argument.PublicKey, only: [is_named: 1]

  alias Pkcs11Pool.Argument.PublicKey
  alias Pkcs11Pool.{Object, Template}

  @type t :: Object.t() | Template.t() | String.t() | {:public_key | :certificate, term}

  @typedoc """
  `:find` is a template to look for; with a third element, the token that the key's URI names, see
  `native_slot/1`; `:newest` is the newest key that a template finds. `:public_key` is the key of this class that a public key belongs
  to. `:object` is a known handle, with the template to find
  it again; an empty one says that it has neither id nor label to find it by; and its unique id, if it has one.
  """
  @type encoded ::
          {:find | :newest, Template.encoded()}
          | {:find | :newest, Template.encoded(), [{String.t(), String.t()}]}
          | {:public_key, class :: non_neg_integer, PublicKey.numbers(), info :: binary,
             certificate :: binary | nil}
          | {:object, handle :: non_neg_integer, epoch :: non_neg_integer, token :: term,
             Template.encoded()}
          | {:object, handle :: non_neg_integer, epoch :: non_neg_integer, token :: term,
             Template.encoded(), unique_id :: binary}

  @class Template.name!(:class)
  @label Template.name!(:label)
  @id Template.name!(:id)

  @doc """
  The key, with the class that the operation implies unless the key names one itself.

  Raises `ArgumentError` for what is no key, and for what identifies no object: the only object that matches may be any.
  """
  @spec encode!(t, class :: atom | nil) :: encoded
  def encode!(%Object{} = object, class) do
    object!(object)
    template = unless_empty(object.id, @id, unless_empty(object.label, @label, []))
    template = if template == [], do: [], else: with_class(template, object.class || class)
    encoded = {:object, object.handle, object.epoch, object.token, template}

    if object.unique_id,
      do: Tuple.insert_at(encoded, tuple_size(encoded), object.unique_id),
      else: encoded
  end

  def encode!(string, class) when is_binary(string) do
    if Pkcs11Pool.URI.uri?(string),
      do: string |> Pkcs11Pool.URI.parse!() |> Pkcs11Pool.URI.check_key!() |> encode_uri!(class),
      else: {:find, labelled!(string, class)}
  end

  def encode!(template, class) when is_list(template),
    do: {:find, with_class(identifying!(template), class)}

  # Where nothing says which of the two halves is meant, it is the one with which something is done.
  def encode!(named, class) when is_named(named) do
    {numbers, info, certificate} = PublicKey.encode!(named)
    {:public_key, Template.class!(class || :private_key), numbers, info, certificate}
  end

  def encode!(_other, _class) do
    raise ArgumentError,
          "expected a key: a %Pkcs11Pool.Object{}, a template such as [label: \"signing\"], " <>
            "a label, a PKCS#11 URI, {:public_key, key} or {:certificate, certificate}"
  end

  @doc """
  Whether a key says by itself of which class it is.
  """
  @spec names_class?(term) :: boolean
  def names_class?(%Object{}), do: true

  def names_class?(string) when is_binary(string),
    do: Pkcs11Pool.URI.uri?(string) and Pkcs11Pool.URI.parse!(string).type != nil

  def names_class?(template) when is_list(template) and length(template) >= 0,
    do: List.keymember?(template, :class, 0)

  def names_class?(_no_key), do: false

  defp encode_uri!(uri, class) do
    template = with_class(identifying!(Pkcs11Pool.URI.to_template(uri)), class)

    case Pkcs11Pool.URI.to_slot(uri) do
      selector when selector == %{} -> {:find, template}
      selector -> {:find, template, native_slot(selector)}
    end
  end

  @doc """
  What a URI says of slot, token and module, by the standard's own names.
  """
  @spec native_slot(Pkcs11Pool.URI.slot()) :: [{String.t(), String.t()}]
  def native_slot(selector) do
    for {name, value} <- selector,
        do: {name |> Atom.to_string() |> String.replace("_", "-"), to_string(value)}
  end

  # Attributes whose values differ from object to object. What many objects share (class, key type, curve, public exponent, lengths, booleans,
  # dates) finds whatever single object there happens to be.
  @identifying [
    :label,
    :id,
    :unique_id,
    :value,
    :modulus,
    :ec_point,
    :public_key_info,
    :check_value,
    :subject,
    :serial_number,
    :object_id,
    :url,
    :hash_of_subject_public_key,
    :hash_of_certificate
  ]
  @identifying_codes Enum.map(@identifying, &Template.name!/1)
  @first_of_vendors 0x8000_0000

  # What `identifying!/1` and `with_class/2` make of a template with this label, for most calls.
  defp labelled!("", _class), do: identifies_none!()
  defp labelled!(label, nil), do: Template.encode!(label: label)
  defp labelled!(label, class), do: [attribute(class) | Template.encode!(label: label)]

  defp identifying!(template) do
    encoded = Template.encode!(template)
    if Enum.any?(encoded, &identifies?/1), do: encoded, else: identifies_none!()
  end

  defp identifies?({_code, ""}), do: false

  defp identifies?({code, value}),
    do: is_binary(value) and (code in @identifying_codes or code >= @first_of_vendors)

  @spec identifies_none!() :: no_return
  defp identifies_none! do
    raise ArgumentError,
          "the key identifies no object: a label or template or PKCS#11 URI must name, with a value that is not empty, one of " <>
            "#{Enum.map_join(@identifying, ", ", &inspect/1)}, or a vendor's attribute of bytes " <>
            "(in a URI: object or id)"
  end

  @largest Bitwise.bsl(1, 64) - 1

  # Whoever made or changed one by hand hears of it here, rather than from the native side, which cannot say what is wrong.
  defp object!(object) do
    for {field, expected, valid?} <- [
          {:handle, "a non-negative integer of 64 bits", number?(object.handle)},
          {:epoch, "a non-negative integer of 64 bits", number?(object.epoch)},
          {:token, "a binary", is_binary(object.token)},
          {:id, "a binary", is_nil(object.id) or is_binary(object.id)},
          {:label, "a binary", is_nil(object.label) or is_binary(object.label)},
          {:unique_id, "nil or a binary that is not empty", unique_id?(object.unique_id)}
        ],
        not valid? do
      raise ArgumentError,
            "the #{inspect(field)} of a %Pkcs11Pool.Object{} is not #{expected}: use objects as calls return them"
    end
  end

  defp unique_id?(value), do: is_nil(value) or (is_binary(value) and value != "")
  defp number?(value), do: is_integer(value) and value in 0..@largest

  defp unless_empty(empty, _code, template) when empty in ["", nil], do: template
  defp unless_empty(value, code, template), do: [{code, value} | template]

  defp with_class(template, nil), do: template

  defp with_class(template, class) do
    if List.keymember?(template, @class, 0), do: template, else: [attribute(class) | template]
  end

  for class <- [:private_key, :public_key, :secret_key] do
    @attribute {@class, {:ulong, Template.class!(class)}}
    defp attribute(unquote(class)), do: @attribute
  end

  defp attribute(class), do: {@class, {:ulong, Template.class!(class)}}
end
