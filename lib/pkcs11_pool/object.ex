defmodule Pkcs11Pool.Object do
  @moduledoc """
  A reference to an object on a token: a key, a certificate, data.

  `Pkcs11Pool.find_objects/3` and the calls that make keys return it, and every call that takes a
  key takes it. It may be kept. A handle that the token has forgotten meanwhile (after a logout, a
  reload, an absence of the token, or since somebody has destroyed the object) is looked for again:

    * by its unique id, where the token has such (`CKA_UNIQUE_ID`, PKCS#11 3.0, 4.4.1). What is found is
      the same object, also with another id or label; one that was destroyed is `:object_stale`, also
      where another object has its id and label by now
    * otherwise by class, id and label. What is found *may be another object* by now, if somebody
      has destroyed this one and made another with the same id and label. If there is none, it is
      `:object_stale`

  `Pkcs11Pool.destroy_object/3`, `Pkcs11Pool.set_attributes/4` and `Pkcs11Pool.copy_object/4` take
  only the first way: without a unique id, an object of before a logout, a reload or the token's
  absence is `:object_stale` there. On another token, an object is
  `:object_of_other_token`.

    * `:class` and `:key_type` are atoms, numbers that the standard does not name, or nil where the
      token did not say (`:key_type` of what is no key)
    * `:id` and `:label` are binaries, empty where the object has none, and nil where the token refused to read
      them: see `Pkcs11Pool.find_objects/3`. Of an object that was just made, and that the token refuses to describe, all of these
      are what its template says
    * `:unique_id` is the token's own name for the object, as bytes, which no other object has and
      nobody can change; nil where the token has no `CKA_UNIQUE_ID`, or an empty one
    * `:der` is the certificate, of an object that `Pkcs11Pool.find_certificates/3` found; otherwise nil
    * `:token`, `:epoch` and `:handle` are the library's own
  """

  alias Pkcs11Pool.Template

  @enforce_keys [:token, :epoch, :handle]
  defstruct [:token, :epoch, :handle, :class, :key_type, :unique_id, :der, id: "", label: ""]

  @type t :: %__MODULE__{
          token: term,
          epoch: non_neg_integer,
          handle: non_neg_integer,
          class: atom | non_neg_integer | nil,
          key_type: atom | non_neg_integer | nil,
          id: binary | nil,
          label: binary | nil,
          unique_id: binary | nil,
          der: binary | nil
        }

  @doc false
  @spec from_native(native | {native, unique_id :: binary}) :: t
        when native:
               {handle :: non_neg_integer, epoch :: non_neg_integer, token :: term,
                class :: non_neg_integer | nil, key_type :: non_neg_integer | nil,
                id :: binary | :unavailable | nil, label :: binary | :unavailable | nil}
  def from_native({native, unique_id}), do: %{from_native(native) | unique_id: unique_id}

  def from_native({handle, epoch, token, class, key_type, id, label}) do
    %__MODULE__{
      token: token,
      epoch: epoch,
      handle: handle,
      class: class && Template.class(class),
      key_type: key_type && Template.key_type(key_type),
      id: text(id),
      label: text(label)
    }
  end

  @doc """
  A PKCS#11 URI (RFC 7512) that names the object and its token: `token`, `serial`, `object` (the label), `type` and `id`, as far as the object has them. A label that is no
  UTF-8 is left out, as a URI cannot name it; so is a class that URIs have no word for.

      iex> object = %Pkcs11Pool.Object{token: "8f3a\0payments", epoch: 1, handle: 7, class: :private_key, id: <<1>>, label: "my key"}
      iex> Pkcs11Pool.Object.to_uri(object)
      "pkcs11:token=payments;serial=8f3a;object=my%20key;type=private;id=%01"

  A key is found by it where label and id are: another object may have the same. One that has neither is not found by a URI.
  """
  @spec to_uri(t) :: String.t()
  def to_uri(%__MODULE__{} = object) do
    {serial, token} = serial_and_label(object.token)

    Pkcs11Pool.URI.format(%Pkcs11Pool.URI{
      token: token,
      serial: serial,
      object: Pkcs11Pool.URI.named(object.label),
      id: if(object.id != "", do: object.id),
      type: Pkcs11Pool.URI.type(object.class)
    })
  end

  # See native/token/src/token/selector.rs, `identity`.
  defp serial_and_label(identity) do
    with true <- is_binary(identity),
         [serial, label] <- String.split(identity, <<0>>, parts: 2) do
      {Pkcs11Pool.URI.named(serial), Pkcs11Pool.URI.named(label)}
    else
      _made_by_hand -> {nil, nil}
    end
  end

  defp text(:unavailable), do: nil
  defp text(nil), do: ""
  defp text(text), do: text

  defimpl Inspect do
    @shown_id_bytes 32

    def inspect(object, _opts) do
      parts =
        [
          if(object.class, do: to_string(object.class), else: "object"),
          if(object.label not in ["", nil], do: Kernel.inspect(object.label)),
          if(object.id not in ["", nil], do: "id=" <> hex(object.id)),
          if(object.key_type, do: "key_type=#{object.key_type}"),
          if(nil in [object.id, object.label], do: "unreadable handle=#{object.handle}")
        ]
        |> Enum.reject(&is_nil/1)
        |> Enum.join(" ")

      "#Pkcs11Pool.Object<" <> parts <> ">"
    end

    defp hex(<<id::binary-size(@shown_id_bytes), _rest, _more::binary>>), do: hex(id) <> "..."
    defp hex(id), do: Base.encode16(id, case: :lower)
  end
end
