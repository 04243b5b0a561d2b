defmodule Pkcs11Pool.Doctor.Signature do
  @moduledoc false
  # A signature as a proof that a key works: made on the token, verified on the token, and verified once more by OTP where the public key is to be had.

  alias Pkcs11Pool.{Error, Mechanism, Object}

  @data "pkcs11_pool doctor"

  # What a key signs with, and the mechanisms of which the token must have one for it.
  @by_type %{
    rsa: [
      {{:rsa_pkcs, hash: :sha256}, [:sha256_rsa_pkcs, :rsa_pkcs]},
      {{:rsa_pkcs_pss, hash: :sha256}, [:sha256_rsa_pkcs_pss, :rsa_pkcs_pss]}
    ],
    ec: [{{:ecdsa, hash: :sha256}, [:ecdsa_sha256, :ecdsa]}],
    ec_edwards: [{:eddsa, [:eddsa]}],
    generic_secret: [{:sha256_hmac, [:sha256_hmac]}],
    sha256_hmac: [{:sha256_hmac, [:sha256_hmac]}],
    aes: [{:aes_cmac, [:aes_cmac]}]
  }

  @typedoc "`:on_token` and `:in_vm` are `:ok`, an error, or nil where there is no public key for it."
  @type t :: %{
          key: %{class: atom, type: atom, label: String.t(), id: binary},
          mechanism: Mechanism.t(),
          sign_ms: float,
          on_token: :ok | Error.t() | nil,
          in_vm: :ok | :invalid | nil
        }

  @doc """
  Signs with a key, `:any` for the first that can, and verifies. `verifying` is called between the two. `{:ok, nil}`: there is no such key.
  """
  @spec make(term, Pkcs11Pool.Template.t() | :any, (() -> term)) ::
          {:ok, t | :no_key | :no_mechanism} | {:error, Error.t()}
  def make(pool, key, verifying) do
    with {:ok, mechanisms} <- Pkcs11Pool.mechanisms(pool),
         {:ok, keys} <- signing_keys(pool, key) do
      pairs = for key <- keys, mechanism = mechanism(key, mechanisms), do: {key, mechanism}

      case {pairs, keys} do
        {[{key, mechanism} | _], _keys} -> sign(pool, key, mechanism, verifying)
        {[], []} -> {:ok, :no_key}
        {[], _keys} -> {:ok, :no_mechanism}
      end
    end
  end

  # Private keys first: they are what a pool is mostly there for.
  defp signing_keys(pool, key) do
    template = if key == :any, do: [], else: key
    classes = if template[:class], do: [template[:class]], else: [:private_key, :secret_key]

    Enum.reduce_while(classes, {:ok, []}, fn class, {:ok, found} ->
      template = template |> Keyword.delete(:class) |> Keyword.merge(class: class, sign: true)

      case Pkcs11Pool.find_objects(pool, template, limit: 100) do
        {:ok, keys} -> {:cont, {:ok, found ++ keys}}
        error -> {:halt, error}
      end
    end)
  end

  defp mechanism(key, mechanisms) do
    signing = for %{mechanism: name, flags: flags} <- mechanisms, :sign in flags, do: name

    Enum.find_value(@by_type[key.key_type] || [], fn {mechanism, any_of} ->
      if Enum.any?(any_of, &(&1 in signing)), do: mechanism
    end)
  end

  defp sign(pool, key, mechanism, verifying) do
    opts = if key.key_type == :ec, do: [signature: :der], else: []
    started = System.monotonic_time()

    with {:ok, signature} <- Pkcs11Pool.sign(pool, key, mechanism, @data, opts) do
      took = System.monotonic_time() - started
      verifying.()
      public = public_key(pool, key)

      {:ok,
       %{
         key: %{class: key.class, type: key.key_type, label: key.label, id: key.id},
         mechanism: mechanism,
         sign_ms: System.convert_time_unit(took, :native, :microsecond) / 1_000,
         on_token: on_token(pool, public, mechanism, signature, opts),
         in_vm: in_vm(pool, public, mechanism, signature)
       }}
    end
  end

  # The key itself where it is a secret one. Else the public key with its id, or where it has none with its label.
  defp public_key(_pool, %Object{class: :secret_key} = key), do: key

  defp public_key(pool, key) do
    name = if key.id not in [nil, ""], do: [id: key.id], else: [label: key.label]

    with true <- name not in [[label: nil], [label: ""]],
         template = [class: :public_key, key_type: key.key_type] ++ name,
         {:ok, [public]} <- Pkcs11Pool.find_objects(pool, template) do
      public
    else
      _none_or_several -> nil
    end
  end

  defp on_token(_pool, nil, _mechanism, _signature, _opts), do: nil

  defp on_token(pool, public, mechanism, signature, opts) do
    with {:error, error} <- Pkcs11Pool.verify(pool, public, mechanism, @data, signature, opts),
         do: error
  end

  defp in_vm(_pool, nil, _mechanism, _signature), do: nil
  defp in_vm(_pool, %Object{class: :secret_key}, _mechanism, _signature), do: nil

  defp in_vm(pool, public, mechanism, signature) do
    with {:ok, key} <- Pkcs11Pool.public_key(pool, public) do
      if verified?(key, mechanism, signature), do: :ok, else: :invalid
    else
      {:error, _none} -> nil
    end
  rescue
    # A curve that this OTP does not know.
    _error -> nil
  end

  defp verified?(key, {:rsa_pkcs_pss, hash: hash}, signature) do
    options = [rsa_padding: :rsa_pkcs1_pss_padding, rsa_pss_saltlen: -2, rsa_mgf1_md: hash]
    :public_key.verify(@data, hash, signature, key, options)
  end

  defp verified?(key, {_name, hash: hash}, signature),
    do: :public_key.verify(@data, hash, signature, key)

  defp verified?(key, :eddsa, signature), do: :public_key.verify(@data, :none, signature, key)
end
