defmodule Pkcs11Pool.RetryPolicyTest do
  # Any return code can be moved to another class, and what the pool does follows.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, ReturnCode}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  # What the standard names but for success and what speaks of a PIN, vendors' codes, and what nobody knows.
  @codes for(
           name <- ReturnCode.names(),
           code = ReturnCode.code(name),
           code != 0 and code not in ReturnCode.credential_codes(),
           do: code
         ) ++ [0x80000000, 0x80000123, 0xFFFFFFFF, 0x4, 0x7FFFFFFF]

  # From the class to what an idempotent operation that fails once comes to, at its one call: attempts, sessions opened, modules initialized.
  @once %{
    dead_session: {:ok, 2, 1, 0},
    device_trouble: {:ok, 2, 0, 0},
    module: {:ok, 2, 1, 1},
    dirty_session: {:error, 1, 1, 0},
    token_gone: {:error, 1, 1, 0},
    unknown: {:error, 1, 1, 0},
    ambiguous: {:error, 1, 0, 0},
    caller: {:error, 1, 0, 0}
  }

  # The same of a login that fails so: what callers get, how the pool's login stands, and how often the PIN was sent for three of them.
  @at_login [
    credential: {:vendor_defined, :poisoned, 1},
    login_conflict: {:login_conflict, :logged_out, 3},
    already_logged_in: {:ok, :logged_in, 1},
    caller: {:vendor_defined, :logged_out, 3}
  ]

  for {class, expected} <- @at_login do
    test "#{class}, at a login" do
      {result, login, tries} = unquote(Macro.escape(expected))
      %{token: token, chaos: chaos} = ChaosToken.for_test!()
      pool = :"pool-#{System.unique_integer([:positive])}"
      opts = [name: pool, lazy: true, retry_policy: %{0x80000123 => unquote(class)}]
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
      Chaos.fail(chaos, :C_Login, 0x80000123)

      for _ <- 1..3 do
        seen =
          case Pkcs11Pool.generate_random(pool, 8) do
            {:ok, _bytes} -> :ok
            {:error, %Error{reason: reason, executed: false}} -> reason
          end

        assert seen == result
      end

      assert Chaos.calls(chaos, :C_Login) == tries
      assert Pkcs11Pool.status(pool).login == login
      Pools.drained!(pool)
    end
  end

  for {class, expected} <- @once do
    test "#{class}" do
      class = unquote(class)
      {result, attempts, opened, initialized} = unquote(Macro.escape(expected))
      token = ChaosToken.new!()
      chaos = token.chaos
      on_exit(fn -> Chaos.stop(chaos) end)
      pool = :"pool-#{System.unique_integer([:positive])}"
      policy = Map.new(@codes, &{&1, class})
      opts = [name: pool, pool_size: 1, retry_policy: policy]
      start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})

      for code <- @codes do
        assert {code, result, attempts, opened, initialized} == fail_once(pool, chaos, code)
      end

      assert %{state: :up} = Pkcs11Pool.status(pool)
      assert Chaos.violations(chaos) == []
    end
  end

  # What one call comes to whose function fails once. A pool that looks for its token holds its calls back for a second. Where the whole machine stands still for so
  # long, they are refused: that says nothing, and is done again.
  defp fail_once(pool, chaos, code, trials \\ 5) do
    # A session is there, whatever the last one has done to it.
    assert {:ok, _bytes} = Pkcs11Pool.generate_random(pool, 8)
    Pools.drained!(pool)
    Chaos.reset_counts(chaos)
    Chaos.fail(chaos, :C_GenerateRandom, code, count: 1)

    {us, {first, attempts, next}} =
      :timer.tc(fn ->
        first = Pkcs11Pool.generate_random(pool, 8)
        attempts = Chaos.calls(chaos, :C_GenerateRandom)
        # A session that was dropped is replaced when it is wanted.
        {first, attempts, Pkcs11Pool.generate_random(pool, 8)}
      end)

    if trials > 1 and us > 900_000 and (refused?(first) or refused?(next)) do
      Chaos.clear(chaos, :C_GenerateRandom)
      Poll.until(fn -> match?({:ok, _bytes}, Pkcs11Pool.generate_random(pool, 8)) end)
      fail_once(pool, chaos, code, trials - 1)
    else
      assert {:ok, _bytes} = next
      Pools.drained!(pool)
      initialized = Chaos.calls(chaos, :C_Initialize)
      {code, outcome(first, code), attempts, sessions(chaos), initialized}
    end
  end

  defp refused?(result), do: match?({:error, %Error{reason: :token_unavailable}}, result)

  defp outcome({:ok, _bytes}, _code), do: :ok

  defp outcome({:error, %Error{code: code, function: :C_GenerateRandom}}, code), do: :error

  # Those that the pool has opened to use them: not that of a look for the token, which is closed at once.
  defp sessions(chaos) do
    Chaos.calls(chaos, :C_OpenSession) - Chaos.calls(chaos, :C_Initialize)
  end
end
