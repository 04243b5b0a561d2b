defmodule Pkcs11Pool.RecoveryEventsTest do
  # What an operator hears of a recovery: events for whoever has telemetry, and log lines in any case.
  use ExUnit.Case, async: false

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM, TelemetryStandIn}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    TelemetryStandIn.load!()
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    pool = :"pool-#{System.unique_integer([:positive])}"
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: pool)})
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    assert_receive {[:pkcs11_pool, :pool, :up], %{system_time: _}, %{pool: ^pool}}
    %{pool: pool, chaos: token.chaos}
  end

  defp random(pool), do: Pkcs11Pool.generate_random(pool, 8)

  test "a token goes and comes back: breaker and pool", %{pool: pool, chaos: chaos} do
    log =
      capture_log(fn ->
        Chaos.remove_token(chaos)
        assert {:error, %Error{reason: :token_unavailable}} = random(pool)

        assert_receive {[:pkcs11_pool, :pool, :down], _,
                        %{pool: ^pool, reason: :token_unavailable}}

        assert_receive {[:pkcs11_pool, :breaker, :open], _,
                        %{pool: ^pool, reason: :token_unavailable}}

        refute_received {[:pkcs11_pool, :breaker, :closed], _, _}
        Chaos.return_token(chaos)
        assert_receive {[:pkcs11_pool, :breaker, :closed], _, %{pool: ^pool}}, 20_000
        assert_receive {[:pkcs11_pool, :pool, :up], _, %{pool: ^pool}}
        # The first session and its login, without anybody asking.
        assert_receive {[:pkcs11_pool, :login, :stop], _, %{pool: ^pool, result: :ok}}
      end)

    assert log =~ "pool #{inspect(pool)}: down: the token is unavailable"
    refute_received {[:pkcs11_pool, :pool, :down], _, _}
    Pools.drained!(pool)
  end

  test "an operation is tried again", %{pool: pool, chaos: chaos} do
    Chaos.fail(chaos, :C_GenerateRandom, :device_error, count: 1)
    assert {:ok, _bytes} = random(pool)

    assert_receive {[:pkcs11_pool, :operation, :retry], %{system_time: _},
                    %{
                      pool: ^pool,
                      class: :device_trouble,
                      reason: :device_error,
                      function: :C_GenerateRandom
                    }}

    refute_received {[:pkcs11_pool, :operation, :retry], _, _}
    Pools.drained!(pool)
  end

  test "a module is initialized again: a line in the log, and no breaker", %{
    pool: pool,
    chaos: chaos
  } do
    log =
      capture_log(fn ->
        Chaos.uninitialize(chaos)
        assert {:ok, _bytes} = random(pool)
        Poll.until(fn -> Pkcs11Pool.status(pool).state == :up end)
        assert_receive {[:pkcs11_pool, :operation, :retry], _, %{pool: ^pool, class: :module}}
        # The pool server has heard of everything.
        :ok = Pkcs11Pool.resize(pool, 3)
      end)

    assert log =~ "the PKCS#11 module had lost its initialization"
    refute_received {[:pkcs11_pool, :breaker, :open], _, _}
    refute_received {[:pkcs11_pool, :pool, :down], _, _}
    Pools.drained!(pool)
  end
end
