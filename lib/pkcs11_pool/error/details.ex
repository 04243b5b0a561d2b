defmodule Pkcs11Pool.Error.Details do
  @moduledoc false
  # An error's details as parts of its sentences. Details are read with care, since a message must never raise; and what is not known to be harmless is
  # not shown. A detail that is missing, or of another shape, gives words that do without it.

  alias Pkcs11Pool.Mechanism.Params
  alias Pkcs11Pool.ReturnCode

  @spec kind_of_key(map) :: String.t()
  def kind_of_key(details) do
    type = if details[:key_type], do: " of type #{inspect(details.key_type)}"
    "an object of class #{inspect(details[:class] || :unknown)}#{type}"
  end

  @spec mechanism(map) :: String.t()
  def mechanism(%{mechanism: mechanism}),
    do: " the mechanism #{inspect(mechanism)} in this operation"

  def mechanism(_details), do: " the mechanism"

  @doc "The names of the parameters that the mechanism takes."
  @spec taken(map) :: String.t()
  def taken(%{mechanism: mechanism}) do
    case Params.names(mechanism) do
      [] -> ""
      names -> " (" <> Enum.map_join(names, ", ", &inspect/1) <> ")"
    end
  end

  def taken(_details), do: ""

  @doc "What most tokens take of the mechanism's parameters; nil where there is nothing to say."
  @spec usual_parameters(map) :: String.t() | nil
  def usual_parameters(%{mechanism: name}) when is_atom(name) do
    written = Atom.to_string(name)

    cond do
      name == :rsa_pkcs_oaep ->
        "Some tokens take OAEP with SHA-1 only, for hash and MGF: {:rsa_pkcs_oaep, hash: :sha1}"

      String.ends_with?(written, "rsa_pkcs_pss") ->
        "Most tokens want an :mgf of the same hash as :hash, and a :salt_length (bytes) that the key has room for"

      name == :aes_gcm ->
        "All tokens take an :iv of 12 bytes and tag_bits: 128; some take nothing else"

      name == :aes_ccm ->
        "Data of more than 65,535 bytes need a :nonce of at most 12 bytes, of more than 16 MiB one of at most 11"

      name == :aes_ctr ->
        "All tokens take counter_bits: 128; some take nothing else"

      name == :eddsa ->
        "Keys on Ed25519 take a :context that is not empty, or prehash: true; some tokens take neither"

      String.ends_with?(written, "chacha20") or String.ends_with?(written, "20_poly1305") ->
        "All tokens take a :nonce of 12 bytes; some take nothing else"

      String.ends_with?(written, "_general") ->
        "The :length is in bytes, and no longer than the whole MAC; some tokens have a least one, too"

      String.ends_with?(written, "_derive") ->
        "Some tokens take kdf: :null only, without :shared_data; of :public_data some want the bare point, some its DER"

      true ->
        nil
    end
  end

  def usual_parameters(_details), do: nil

  @spec hung(map) :: String.t()
  def hung(%{hung: hung, size: size}) when is_integer(hung) and is_integer(size),
    do: "#{hung} calls (of a pool of #{size} sessions)"

  def hung(_details), do: "calls"

  @spec within(map) :: String.t()
  def within(%{timeout_ms: ms}) when is_number(ms), do: " within #{ms} ms"
  def within(_details), do: " in time"

  # An error without a pool is of Pkcs11Pool.Token, which logs no pool in.
  @spec pin_remedy(map, error :: map) :: String.t()
  def pin_remedy(_details, %{pool: nil}),
    do: "Correct the PIN source first: the token may count each wrong PIN, and lock after a few"

  def pin_remedy(details, _error) do
    if poisoned?(details) do
      "No further C_Login is made until login/3, or until the :pin source gives another PIN"
    else
      "Correct the :pin source, then call login/3"
    end
  end

  defp poisoned?(%{poisoned: true}), do: true
  defp poisoned?(_details), do: false

  @spec sharers(map) :: String.t()
  def sharers(%{pools: pools, leases: leases}) when is_integer(pools) and is_integer(leases),
    do: ": #{pools} other pools on the token, #{leases} with_session/3 blocks of this one"

  def sharers(%{leases: leases}) when is_integer(leases),
    do: ": #{leases} with_session/3 blocks of this pool, the caller's among them"

  def sharers(_details), do: ""

  # What is shorter says nothing: it is over, or longer, when somebody reads it.
  @shortest_shown 100

  @spec away(map) :: String.t()
  def away(%{away_ms: ms}) when is_number(ms) and ms >= @shortest_shown,
    do: "has been unavailable for #{duration(ms)}"

  def away(_details), do: "is unavailable"

  # A time in ms as people say it.
  @spec duration(number) :: String.t()
  def duration(ms) when ms < 10_000, do: "#{round(ms)} ms"
  def duration(ms) when ms < 120_000, do: "#{div(round(ms), 1_000)} s"
  def duration(ms) when ms < 7_200_000, do: "#{div(round(ms), 60_000)} min"
  def duration(ms), do: "#{div(round(ms), 3_600_000)} h"

  @spec retry_after(map) :: String.t()
  def retry_after(details) do
    next =
      with ms when is_number(ms) and ms >= @shortest_shown <- details[:retry_after_ms],
           do: ", next in #{duration(ms)}",
           else: (_soon_or_unknown -> "")

    "The pool looks for it by itself#{next}, and nothing has to be restarted; see that the device has power, " <>
      "the network reaches it, and the token is in it"
  end

  @spec of_public_key(map) :: String.t()
  def of_public_key(%{public_keys: public_keys, certificates: certificates, unproved: unproved})
      when is_integer(public_keys) and is_integer(certificates) and is_integer(unproved) do
    "looked for by its modulus or point, and by the CKA_ID of #{public_keys} public keys and #{certificates} certificates of it: " <>
      "#{unproved} private keys have that id, and could not be proved"
  end

  def of_public_key(_details), do: "looked for by its modulus or point, and by CKA_ID"

  @spec undecided(atom) :: String.t()
  def undecided(:no_start_date),
    do: "none of them has a CKA_START_DATE, nor do their ids number the versions of one key"

  def undecided(:same_start_date), do: "several have the last CKA_START_DATE"
  def undecided(:start_date_in_future), do: "each CKA_START_DATE is in the future"

  def undecided(:start_date_unreadable),
    do: "the token fails to read the CKA_START_DATE of one (as SoftHSM does for private objects)"

  def undecided(_unknown), do: "nothing tells which"

  @shown_candidates 5

  @spec candidates(map) :: String.t()
  def candidates(%{candidates: [_ | _] = candidates}) do
    shown =
      candidates
      |> Enum.take(@shown_candidates)
      |> Enum.map_join(", ", fn
        {id, label} when is_binary(id) and is_binary(label) ->
          "#{inspect(label)} with id #{if id == "", do: "empty", else: Base.encode16(id, case: :lower)}"

        other ->
          inspect(other)
      end)

    more = if length(candidates) > @shown_candidates, do: ", ...", else: ""
    ": " <> shown <> more
  end

  def candidates(_details), do: ""

  @spec attributes(map) :: String.t()
  def attributes(%{attributes: [_ | _] = names}),
    do: "the attributes " <> Enum.map_join(names, ", ", &inspect/1)

  def attributes(_details), do: "an attribute that was asked for"

  @spec path(map) :: String.t()
  def path(%{path: path}) when is_binary(path), do: " " <> path
  def path(_details), do: ""

  # From a part of the module's file name to where it looks for its configuration, as its documentation says.
  @configurations [
    {"softhsm",
     "SoftHSM reads the file that SOFTHSM2_CONF names; the directory of tokens that it names must be there, and this user must be able to read and write it"},
    {"kmsp11", "kmsp11 reads the file that KMS_PKCS11_CONFIG names, and Google's credentials"},
    {"cloudhsm",
     "configure-pkcs11 writes it: it names the cluster, whose certificate must be there"},
    {"yubihsm",
     "yubihsm_pkcs11 reads the file that YUBIHSM_PKCS11_CONF names, and yubihsm-connector must run where it says"},
    {"cryptoki",
     "Luna's library reads Chrystoki.conf in the directory that ChrystokiConfigurationPath names"},
    {"opencryptoki", "pkcsslotd must run, and this user must be in the group pkcs11"},
    {"tpm2", "TPM2_PKCS11_STORE names the directory of its tokens, TPM2_PKCS11_TCTI the TPM"},
    {"kryoptic", "KRYOPTIC_CONF names its file"},
    {"p11-kit-client",
     "P11_KIT_SERVER_ADDRESS names the socket of p11-kit server, which must run"}
  ]

  @spec configuration(map) :: String.t()
  def configuration(%{path: path}) when is_binary(path) do
    name = path |> Path.basename() |> String.downcase()

    # The longest name first: one may be in another.
    @configurations
    |> Enum.sort_by(fn {part, _hint} -> -String.length(part) end)
    |> Enum.find_value(&hint(&1, name))
    |> Kernel.||(configuration(%{}))
  end

  def configuration(_details),
    do:
      "the files and variables that its documentation names, whether this user may read them, and whether the service that it needs runs"

  defp hint({part, hint}, name), do: if(String.contains?(name, part), do: hint)

  @spec cause(map) :: String.t()
  def cause(%{cause: cause}) when is_binary(cause) and cause != "", do: ": " <> cause

  def cause(%{cause: cause}) when is_atom(cause) and cause not in [nil, true, false] do
    case ReturnCode.code(cause) do
      nil -> ": " <> words(cause)
      code -> ": " <> ReturnCode.describe(code)
    end
  end

  def cause(%{cause: cause}) when is_integer(cause) and cause >= 0,
    do: ": " <> ReturnCode.describe(cause)

  def cause(_details), do: ""

  # The native side gives it in words.
  @spec selector(map) :: String.t()
  def selector(%{selector: selector}) when is_binary(selector), do: " (#{selector})"
  def selector(%{selector: selector}) when selector != nil, do: " #{inspect(selector)}"
  def selector(_details), do: ""

  @spec available(map) :: String.t()
  def available(%{available: []}), do: "; no slot has a token"

  def available(%{available: [_ | _] = available}) do
    "; there are " <> Enum.map_join(available, ", ", &token/1)
  end

  def available(_details), do: ""

  # A token that nobody has initialized has neither label nor serial number.
  defp token({"", "", slot}), do: "an uninitialized token in slot #{slot}"

  defp token({label, serial, slot}) when is_binary(label) and is_binary(serial),
    do: "#{inspect(label)} with serial number #{inspect(serial)} in slot #{slot}"

  defp token(other), do: inspect(other)

  @spec words(atom) :: String.t()
  def words(atom), do: atom |> Atom.to_string() |> String.replace("_", " ")
end
