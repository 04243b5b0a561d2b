defmodule Pkcs11Pool.AbsurdCountTest do
  # Counts and lengths from a module whose memory is damaged: no VM ends of them, and no answer is made of them.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Token}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @absurd [0xFFFFFFFFFFFFFFFE, 2 ** 60, 2 ** 40, 100_000]

  setup do
    ChaosToken.for_test!()
  end

  defp start(token, overrides \\ []) do
    opts = SoftHSM.pool_opts(token, Keyword.merge([pool_size: 1], overrides))
    start_supervised!({Pkcs11Pool, opts})
    opts[:name]
  end

  defp start_ready(token) do
    pool = start(token)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    Pools.key_pair!(pool, "signing")
    pool
  end

  test "of slots: the pool is down and says why, until the count makes sense", %{
    token: token,
    chaos: chaos
  } do
    for count <- @absurd do
      Chaos.answer_count(chaos, :C_GetSlotList, count)

      assert {:error, %Error{reason: :general_error, function: :C_GetSlotList}} =
               Token.list(module: token.module, module_env: token.module_env)
    end

    pool = start(token)
    assert %{state: :down, down: %Error{function: :C_GetSlotList}} = Pkcs11Pool.status(pool)
    Chaos.clear(chaos, :C_GetSlotList)
    assert :ok = Pkcs11Pool.await_ready(pool, 60_000)
  end

  test "of mechanisms: an error", %{token: token, chaos: chaos} do
    pool = start_ready(token)

    for count <- @absurd do
      Chaos.answer_count(chaos, :C_GetMechanismList, count)

      assert {:error, %Error{reason: :general_error, function: :C_GetMechanismList}} =
               Pkcs11Pool.mechanisms(pool)
    end

    Chaos.clear(chaos, :C_GetMechanismList)
    assert {:ok, [_ | _]} = Pkcs11Pool.mechanisms(pool)
  end

  test "of objects found: an error, and neither a key nor none", %{token: token, chaos: chaos} do
    pool = start_ready(token)

    for count <- @absurd do
      Chaos.answer_count(chaos, :C_FindObjects, count)
      Pkcs11Pool.forget_keys(pool)

      assert {:error, %Error{reason: :general_error, function: :C_FindObjects}} =
               Pkcs11Pool.find_objects(pool, label: "signing")

      assert {:error, %Error{reason: :general_error, function: :C_FindObjects}} =
               Pkcs11Pool.sign(pool, "signing", :ecdsa, <<1::256>>)
    end

    Chaos.clear(chaos, :C_FindObjects)
    Poll.until(fn -> match?({:ok, _}, Pkcs11Pool.sign(pool, "signing", :ecdsa, <<1::256>>)) end)
    assert {:ok, [_, _]} = Pkcs11Pool.find_objects(pool, label: "signing")
    assert Chaos.violations(chaos) == []
  end

  test "of an attribute's bytes: an error", %{token: token, chaos: chaos} do
    pool = start_ready(token)
    {:ok, [public]} = Pkcs11Pool.find_objects(pool, label: "signing", class: :public_key)

    # One that may be true is believed: there is no telling.
    for count <- @absurd -- [100_000] do
      Chaos.answer_count(chaos, :C_GetAttributeValue, count)
      assert {:error, %Error{}} = Pkcs11Pool.get_attributes(pool, public, [:ec_point])
    end

    Chaos.clear(chaos, :C_GetAttributeValue)

    assert {:ok, %{ec_point: <<4, 65, 4, _::binary>>}} =
             Pkcs11Pool.get_attributes(pool, public, [:ec_point])
  end

  test "functions that answer no count are refused by name", %{chaos: chaos} do
    assert_raise ArgumentError, ~r/C_Sign answers no count/, fn ->
      Chaos.answer_count(chaos, :C_Sign, 1)
    end

    assert_raise ArgumentError, fn -> Chaos.answer_count(chaos, :C_GetSlotList, 0) end
  end
end
