defmodule Pkcs11Pool.Object do
  @moduledoc """
  A reference to an object on a token: a key, a certificate, data.

  `Pkcs11Pool.find_objects/3` and the calls that make keys return it. Every call that takes a
  key takes it. You may keep it. After a logout, a reload, an absence of the token, or when somebody has destroyed the object, its handle is no longer valid. Then the
  pool searches the object again:

    * by its unique id, if the token has unique ids (`CKA_UNIQUE_ID`, PKCS#11 3.0, 4.4.1). This finds the very same
      object, even if its id or label has changed. If the object was destroyed, the error is `:object_stale`, even
      if another object has its id and label by now
    * otherwise by class, id and label. This *may find another object*, if somebody
      has destroyed this one and made another one with the same id and label. If nothing is found, the error is
      `:object_stale`

  `Pkcs11Pool.destroy_object/3`, `Pkcs11Pool.set_attributes/4` and `Pkcs11Pool.copy_object/4` search
  by unique id only. Without a unique id, an object from before a logout, a reload or an absence of the token
  is `:object_stale` there. If you use an object with a pool on another token, the error is
  `:object_of_other_token`.

    * `:class` and `:key_type` are atoms, or numbers if the standard does not name them, or nil if the
      token did not say (or, for `:key_type`, if the object is not a key)
    * `:id` and `:label` are binaries: empty if the object has none, nil if the token refused to read
      them (see `Pkcs11Pool.find_objects/3`). If the token refuses to describe an object that was just made, all of these
      are taken from its template
    * `:unique_id` is the token's own name for the object, as bytes. No other object has it, and
      nobody can change it. It is nil if the token has no `CKA_UNIQUE_ID`, or an empty one
    * `:der` is the certificate, if `Pkcs11Pool.find_certificates/3` found the object; otherwise nil
    * `:token`, `:epoch` and `:handle` are internal
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
  A PKCS#11 URI (RFC 7512) that names the object and its token: `token`, `serial`, `object` (the label), `type` and `id`, as far as the object has them. A label that is not
  UTF-8 is left out, since a URI cannot contain it; so is a class for which URIs have no word.

      iex> object = %Pkcs11Pool.Object{token: "8f3a\0payments", epoch: 1, handle: 7, class: :private_key, id: <<1>>, label: "my key"}
      iex> Pkcs11Pool.Object.to_uri(object)
      "pkcs11:token=payments;serial=8f3a;object=my%20key;type=private;id=%01"

  The URI finds the key by its label and id; another object may have the same. An object without label and id cannot be found by a URI.
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
