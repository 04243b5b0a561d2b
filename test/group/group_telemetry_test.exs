defmodule Pkcs11Pool.GroupTelemetryTest do
  # A stand-in for the library is loaded for these tests only.
  use ExUnit.Case, async: false

  alias Pkcs11Pool.{Group, Testing}
  alias Pkcs11Pool.Test.{GroupTokens, TelemetryStandIn}

  @mechanism {:ecdsa, hash: :sha256}

  test "events of a group's calls say which member, of which group, and when another member was asked" do
    TelemetryStandIn.load!()
    {key, _public} = GroupTokens.new_key()
    [a, b] = for _ <- 1..2, do: Testing.start_pool!().pool
    GroupTokens.import!(b, key, "only on b")
    start_supervised!({Group, name: :measured, members: [a, b], strategy: :priority})

    assert {:ok, _signature} =
             Pkcs11Pool.sign(:measured, "only on b", @mechanism, "data",
               telemetry_metadata: %{request: 7}
             )

    assert_received {[:pkcs11_pool, :operation, :stop], _,
                     %{
                       operation: :sign,
                       group: :measured,
                       pool: ^a,
                       request: 7,
                       reason: :key_not_found
                     }}

    from = {a, node()}
    to = {b, node()}

    assert_received {[:pkcs11_pool, :group, :failover], %{count: 1},
                     %{group: :measured, from: ^from, to: ^to, reason: :key_not_found}}

    assert_received {[:pkcs11_pool, :operation, :stop], _,
                     %{operation: :sign, group: :measured, pool: ^b, result: :ok}}
  end
end
