defmodule Pkcs11Pool.Object do
  @moduledoc """
  A reference to an object on a token: a key, a certificate, data.

  `Pkcs11Pool.find_objects/3` and the calls that make keys return it, and every call that takes a
  key takes it. It may be kept: a handle that the token has forgotten meanwhile is found again by
  class, id and label, or the call says `:object_stale`; on another token,
  `:object_of_other_token`. `Pkcs11Pool.destroy_object/3` does not find it again: another object may
  have the same id and label by now, so an object of before a logout, a reload or the token's absence
  is `:object_stale` there.

    * `:class` and `:key_type` are atoms, numbers that the standard does not name, or nil where the
      token did not say (`:key_type` of what is no key)
    * `:id` and `:label` are binaries, empty where the object has none
    * `:token`, `:epoch` and `:handle` are the library's own
  """

  alias Pkcs11Pool.Template

  @enforce_keys [:token, :epoch, :handle]
  defstruct [:token, :epoch, :handle, :class, :key_type, id: "", label: ""]

  @type t :: %__MODULE__{
          token: term,
          epoch: non_neg_integer,
          handle: non_neg_integer,
          class: atom | non_neg_integer | nil,
          key_type: atom | non_neg_integer | nil,
          id: binary,
          label: binary
        }

  @doc false
  @spec from_native(
          {handle :: non_neg_integer, epoch :: non_neg_integer, token :: term,
           class :: non_neg_integer | nil, key_type :: non_neg_integer | nil, id :: binary | nil,
           label :: binary | nil}
        ) :: t
  def from_native({handle, epoch, token, class, key_type, id, label}) do
    %__MODULE__{
      token: token,
      epoch: epoch,
      handle: handle,
      class: class && Template.class(class),
      key_type: key_type && Template.key_type(key_type),
      id: id || "",
      label: label || ""
    }
  end

  defimpl Inspect do
    @shown_id_bytes 32

    def inspect(object, _opts) do
      parts =
        [
          if(object.class, do: to_string(object.class), else: "object"),
          if(object.label not in ["", nil], do: Kernel.inspect(object.label)),
          if(object.id not in ["", nil], do: "id=" <> hex(object.id)),
          if(object.key_type, do: "key_type=#{object.key_type}")
        ]
        |> Enum.reject(&is_nil/1)
        |> Enum.join(" ")

      "#Pkcs11Pool.Object<" <> parts <> ">"
    end

    defp hex(<<id::binary-size(@shown_id_bytes), _rest, _more::binary>>), do: hex(id) <> "..."
    defp hex(id), do: Base.encode16(id, case: :lower)
  end
end
