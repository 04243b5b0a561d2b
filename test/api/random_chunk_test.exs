defmodule Pkcs11Pool.RandomChunkTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  setup do
    ChaosToken.for_test!()
  end

  defp start(token, opts) do
    opts = SoftHSM.pool_opts(token, [pool_size: 1] ++ opts)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    opts[:name]
  end

  test "random bytes beyond what a token gives at once, or below it, are cut into calls", %{
    token: token,
    chaos: chaos
  } do
    pool = start(token, random_chunk: 1_024)
    Chaos.random_limits(chaos, 8..1_024)

    for {count, calls} <- [
          {0, 0},
          {1, 1},
          {7, 1},
          {8, 1},
          {1_024, 1},
          {1_025, 2},
          {1_031, 2},
          {5_000, 5}
        ] do
      Chaos.reset_counts(chaos)
      assert {:ok, bytes} = Pkcs11Pool.generate_random(pool, count)
      assert {byte_size(bytes), Chaos.calls(chaos, :C_GenerateRandom)} == {count, calls}
      # No piece is left as it was.
      for <<piece::binary-8 <- bytes>>, do: assert(piece != <<0::64>>)
    end
  end

  test "by default a token is asked for 65,536 bytes at once", %{token: token, chaos: chaos} do
    pool = start(token, [])
    Chaos.random_limits(chaos, 0..65_536)
    Chaos.reset_counts(chaos)
    assert {:ok, bytes} = Pkcs11Pool.generate_random(pool, 200_000)
    assert {byte_size(bytes), Chaos.calls(chaos, :C_GenerateRandom)} == {200_000, 4}
  end

  test "a piece that fails is the failure of all", %{token: token, chaos: chaos} do
    pool = start(token, random_chunk: 1_024)
    Chaos.random_limits(chaos, 8..512)
    assert {:error, %Error{reason: :arguments_bad}} = Pkcs11Pool.generate_random(pool, 5_000)
  end
end
