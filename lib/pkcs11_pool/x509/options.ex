defmodule Pkcs11Pool.X509.Options do
  @moduledoc false
  # The options of Pkcs11Pool.X509, checked.

  alias Pkcs11Pool.X509.Extensions

  @call [:queue_timeout, :operation_timeout, :telemetry_metadata]
  @signature [:hash, :padding, :public_key]
  @groups %{
    certificate: [:days, :not_after, :not_before, :serial, :crl_url, :ocsp_url, :issuer_url],
    extensions: [:profile, :ca, :san, :key_usage, :extended_key_usage, :extensions],
    subject: [:subject],
    crl: [:number, :days, :next_update]
  }
  # The first bit is the sign.
  @above_20_bytes 0x80 * Integer.pow(0x100, 19)
  @hashes [:sha, :sha224, :sha256, :sha384, :sha512]

  @doc false
  @spec validate!(keyword, [atom]) :: map
  def validate!(opts, groups) do
    Keyword.keyword?(opts) || raise ArgumentError, "expected options to be a keyword list"
    known = @call ++ @signature ++ Enum.flat_map(groups, &@groups[&1])

    case Keyword.keys(opts) -- known do
      [] ->
        :ok

      unknown ->
        raise ArgumentError,
              "unknown options #{inspect(unknown)}, valid options are: #{inspect(known)}"
    end

    _checked = Pkcs11Pool.Options.Call.validate!(Keyword.take(opts, @call))
    opts = Map.new(opts, fn {name, value} -> {name, value!(name, value)} end)

    if :crl in groups and opts[:number] == nil,
      do: raise(ArgumentError, "required :number option not found: the number of the CRL")

    if :extensions in groups and opts[:san] == :request and :subject not in groups,
      do: invalid!(:san, "a list of names")

    opts
  end

  @doc false
  @spec call(map) :: keyword
  def call(opts), do: opts |> Map.take(@call) |> Map.to_list()

  @doc false
  # RFC 5280, 4.1.2.2: positive, at most 20 bytes, and not to be guessed. The first bit is 0, the second 1, so that the length is fixed.
  @spec serial(map) :: pos_integer
  def serial(%{serial: serial}), do: serial

  def serial(_opts) do
    <<_first::2, rest::126>> = :crypto.strong_rand_bytes(16)
    <<serial::unsigned-128>> = <<1::2, rest::126>>
    serial
  end

  defp value!(:hash, hash) when hash in @hashes, do: hash
  defp value!(:hash, _other), do: invalid!(:hash, "one of #{inspect(@hashes)}")
  defp value!(:padding, padding) when padding in [:pkcs1, :pss], do: padding
  defp value!(:padding, _other), do: invalid!(:padding, ":pkcs1 or :pss")

  defp value!(:serial, n) when is_integer(n) and n > 0 and n < @above_20_bytes, do: n
  defp value!(:serial, _other), do: invalid!(:serial, "a positive integer of at most 20 bytes")

  defp value!(:number, n) when is_integer(n) and n >= 0 and n < @above_20_bytes, do: n
  defp value!(:number, _other), do: invalid!(:number, "an integer from 0 of at most 20 bytes")

  defp value!(:days, n) when is_integer(n) and n > 0 and n <= 36_525, do: n
  defp value!(:days, _other), do: invalid!(:days, "a number of days from 1 to 36,525")

  defp value!(name, %DateTime{} = time) when name in [:not_before, :not_after, :next_update],
    do: time

  defp value!(name, _other) when name in [:not_before, :not_after, :next_update],
    do: invalid!(name, "a DateTime")

  defp value!(name, urls) when name in [:crl_url, :ocsp_url, :issuer_url] do
    many? = name == :crl_url and is_list(urls) and urls != []

    if Enum.all?(if(many?, do: urls, else: [urls]), &ascii?/1),
      do: urls,
      else: invalid!(name, "a URL")
  end

  defp value!(:profile, profile) do
    if profile in [nil | Extensions.profiles()],
      do: profile,
      else: invalid!(:profile, "one of #{inspect(Extensions.profiles())}")
  end

  defp value!(:ca, ca) when is_boolean(ca) or (is_integer(ca) and ca >= 0), do: ca
  defp value!(:ca, _other), do: invalid!(:ca, "a boolean, or how many CAs may be below it")

  defp value!(:key_usage, names) do
    usages = Extensions.usages()

    if is_list(names) and Enum.all?(names, &(&1 in usages)),
      do: names,
      else: invalid!(:key_usage, "a list of #{inspect(usages)}")
  end

  defp value!(:extended_key_usage, names) do
    usages = Extensions.extended_usages()

    if is_list(names) and Enum.all?(names, &(&1 in usages or oid?(&1))),
      do: names,
      else:
        invalid!(:extended_key_usage, "a list of #{inspect(usages)} or OIDs such as {1, 3, 6, 1}")
  end

  defp value!(:extensions, extensions) do
    if is_list(extensions) and Enum.all?(extensions, &extension?/1),
      do: extensions,
      else: invalid!(:extensions, "a list of {:Extension, oid, critical, der}")
  end

  defp value!(:san, :request), do: :request
  defp value!(:san, names) when is_list(names), do: Enum.map(names, &alternative_name!/1)
  defp value!(:san, _other), do: invalid!(:san, "a list of names, or :request")
  defp value!(_other, value), do: value

  defp alternative_name!(name) when is_binary(name), do: alternative_name!({:dns, name})

  defp alternative_name!({:ip, address}) do
    case is_binary(address) && :inet.parse_strict_address(String.to_charlist(address)) do
      {:ok, {a, b, c, d}} -> {:iPAddress, <<a, b, c, d>>}
      {:ok, words} -> {:iPAddress, for(word <- Tuple.to_list(words), into: "", do: <<word::16>>)}
      _other -> invalid!(:san, "an IP address such as {:ip, \"127.0.0.1\"}")
    end
  end

  defp alternative_name!({kind, name}) when kind in [:dns, :email, :uri] do
    if ascii?(name),
      do: {san_type(kind), String.to_charlist(name)},
      else: invalid!(:san, "names of ASCII (international ones as xn--...)")
  end

  defp alternative_name!(_other),
    do: invalid!(:san, "host names, {:ip, address}, {:email, address} or {:uri, uri}")

  defp san_type(:dns), do: :dNSName
  defp san_type(:email), do: :rfc822Name
  defp san_type(:uri), do: :uniformResourceIdentifier

  defp ascii?(text),
    do:
      is_binary(text) and text != "" and Enum.all?(:binary.bin_to_list(text), &(&1 in 0x21..0x7E))

  defp oid?(oid) do
    is_tuple(oid) and tuple_size(oid) >= 2 and
      Enum.all?(Tuple.to_list(oid), &(is_integer(&1) and &1 >= 0))
  end

  defp extension?({:Extension, oid, critical, der}),
    do: oid?(oid) and is_boolean(critical) and is_binary(der)

  defp extension?(_other), do: false

  @spec invalid!(atom, String.t()) :: no_return
  defp invalid!(name, expected),
    do: raise(ArgumentError, "invalid value for #{inspect(name)} option: expected #{expected}")
end
