defmodule Pkcs11Pool.ReturnCode do
  @moduledoc """
  PKCS#11's return codes: names, numbers, and classes. The class of a code says what the pool does.

  A return code's name is PKCS#11's in lower case without `CKR_`: `CKR_DEVICE_ERROR` is
  `:device_error`. All codes of PKCS#11 3.2 are known.

  The pool option `:retry_policy` gives a code, by name or number, another class than its own:
  `%{general_error: :device_trouble, 0x80000123 => :dead_session}`. The classes:

  | class | what the pool does |
  |---|---|
  | `:dead_session` | closes the session; tries an operation that may run twice once more, on another session |
  | `:dirty_session` | closes the session; tries once more only if the operation had not begun |
  | `:stale_handle` | forgets the key's handle, finds it again, tries once more |
  | `:login_lost` | logs in again, tries once more |
  | `:already_logged_in` | goes on |
  | `:login_conflict` | fails; nobody is logged out |
  | `:credential` | never tries that PIN again |
  | `:capacity` | opens fewer sessions, waits for one to come free |
  | `:token_gone` | fails calls at once, and looks for the token until it is back |
  | `:device_trouble` | tries an operation that may run twice once more, after a pause |
  | `:ambiguous` | never tries again: it may have run |
  | `:module` | initializes the module again |
  | `:locking` | from then on, lets one call at a time into the module |
  | `:buffer` | calls again with a larger buffer |
  | `:caller` | returns the error |
  | `:unknown` | closes the session, never tries again |

  If a module has a code of its own for a wrong PIN, give that code the class `:credential`. `:locking` and `:buffer` work for their own codes only: another code with
  one of these classes is treated as `:caller`. The guide [When the token fails](guides/failure_handling.md#return-codes) has the codes of each class.
  """

  alias Pkcs11Pool.Table.ReturnCodes

  @type class ::
          :dead_session
          | :dirty_session
          | :stale_handle
          | :login_lost
          | :already_logged_in
          | :login_conflict
          | :credential
          | :capacity
          | :token_gone
          | :device_trouble
          | :ambiguous
          | :module
          | :locking
          | :buffer
          | :caller
          | :unknown

  @classes [
    :dead_session,
    :dirty_session,
    :stale_handle,
    :login_lost,
    :already_logged_in,
    :login_conflict,
    :credential,
    :capacity,
    :token_gone,
    :device_trouble,
    :ambiguous,
    :module,
    :locking,
    :buffer,
    :caller,
    :unknown
  ]

  # Another class for one of these could try a refused PIN again.
  @credential_names [
    :pin_incorrect,
    :pin_invalid,
    :pin_len_range,
    :pin_expired,
    :pin_locked,
    :user_pin_not_initialized
  ]

  @names for {name, _code} <- ReturnCodes.all(), do: name

  @doc "All classes."
  @spec classes() :: [class, ...]
  def classes, do: @classes

  @doc "All names."
  @spec names() :: [atom, ...]
  def names, do: @names

  @doc "The numbers of the codes that are about a PIN. Their class is always `:credential`."
  @spec credential_codes() :: [non_neg_integer, ...]
  def credential_codes, do: Enum.map(@credential_names, &code/1)

  @doc "The name of a number; nil for one that the standard does not name."
  @spec name(non_neg_integer) :: atom | nil
  for {name, code} <- ReturnCodes.all() do
    def name(unquote(code)), do: unquote(name)
  end

  def name(code) when is_integer(code), do: nil

  @doc "The number of a name; nil for an unknown one."
  @spec code(atom) :: non_neg_integer | nil
  for {name, code} <- ReturnCodes.all() do
    def code(unquote(name)), do: unquote(code)
  end

  def code(name) when is_atom(name), do: nil

  @doc """
  A code in words, for messages.

      iex> Pkcs11Pool.ReturnCode.describe(0x30)
      "CKR_DEVICE_ERROR (0x30)"
      iex> Pkcs11Pool.ReturnCode.describe(0x80000123)
      "the vendor's return code 0x80000123"
  """
  @spec describe(non_neg_integer) :: String.t()
  def describe(code) when is_integer(code) and code >= 0 do
    hex = "0x" <> Integer.to_string(code, 16)

    case name(code) do
      nil when code >= 0x80000000 -> "the vendor's return code #{hex}"
      nil -> "the unknown return code #{hex}"
      name -> "CKR_#{name |> Atom.to_string() |> String.upcase()} (#{hex})"
    end
  end
end
