defmodule Pkcs11Pool.Test.GroupTokens do
  @moduledoc "Tokens that hold the same keys, each with a pool, for tests of groups."

  alias Pkcs11Pool.Testing

  @doc "A P-256 key pair: what OTP has, and its public key."
  @spec new_key() :: {tuple, tuple}
  def new_key do
    key = :public_key.generate_key({:namedCurve, :secp256r1})
    {key, {{:ECPoint, elem(key, 4)}, elem(key, 3)}}
  end

  @doc "Puts the key pair on a token under this label."
  @spec import!(pool :: term, tuple, String.t()) :: :ok
  def import!(pool, key, label) do
    Pkcs11Pool.import_private_key!(pool, key,
      token: true,
      label: label,
      id: <<1>>,
      private: true,
      sensitive: true,
      sign: true
    )

    Pkcs11Pool.create_object!(pool,
      class: :public_key,
      key_type: :ec,
      token: true,
      label: label,
      id: <<1>>,
      verify: true,
      ec_params: :secp256r1,
      ec_point: <<4, byte_size(elem(key, 4))>> <> elem(key, 4)
    )

    :ok
  end

  @doc "A pool on a new token behind a chaos module, with the key."
  @spec start!(tuple, keyword) :: %{pool: term, chaos: Testing.Chaos.t()}
  def start!(key, opts \\ []) do
    %{pool: pool, chaos: chaos} = Testing.start_pool!([chaos: true] ++ opts)
    import!(pool, key, "signing")
    %{pool: pool, chaos: chaos}
  end
end
