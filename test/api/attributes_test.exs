defmodule Pkcs11Pool.AttributesTest do
  # A module that does not give an attribute's length has not said that it has none.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  test "one whose length the module refuses is an error, not empty" do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    opts = SoftHSM.pool_opts(token)
    pool = opts[:name]
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.key_pair!(pool, "key")
    data = :crypto.hash(:sha256, "data")
    {:ok, signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, data, signature: :der)
    verify = fn -> Pkcs11Pool.verify(pool, "key", :ecdsa, data, signature, signature: :der) end
    assert verify.() == :ok

    Chaos.fail(chaos, :C_GetAttributeValue, :buffer_too_small)
    assert {:error, %Error{reason: :buffer_too_small}} = verify.()
    Chaos.clear(chaos, :C_GetAttributeValue)
    assert verify.() == :ok
  end
end
