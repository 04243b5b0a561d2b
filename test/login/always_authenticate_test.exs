defmodule Pkcs11Pool.AlwaysAuthenticateTest do
  # Keys that want a login for each use (CKA_ALWAYS_AUTHENTICATE), as on PIV cards.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{ChaosToken, Poll, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @digest :crypto.hash(:sha256, "data")

  setup context do
    token = ChaosToken.new!()
    on_exit(fn -> Chaos.stop(token.chaos) end)
    source = ChaosToken.source!(token.pin)
    name = :"pool-#{System.unique_integer([:positive])}"
    opts = [name: name, pin: ChaosToken.pin(source)] ++ Map.get(context, :pool, [])
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, opts)})
    {:ok, _} = generate(name, "card", always_authenticate: true)
    {:ok, _} = generate(name, "plain", [])
    Chaos.reset_counts(token.chaos)
    %{token: token, chaos: token.chaos, source: source, pool: name}
  end

  defp generate(pool, label, extra) do
    Pkcs11Pool.generate_key_pair(
      pool,
      :ec_key_pair_gen,
      [token: true, label: label, ec_params: :secp256r1, verify: true],
      [token: true, label: label, private: true, sensitive: true, sign: true] ++ extra
    )
  end

  defp sign(pool, label \\ "card"), do: Pkcs11Pool.sign(pool, label, :ecdsa, @digest)
  defp asked(context), do: ChaosToken.asked(context.source)

  test "are logged in to for each signature, with the source's PIN", context do
    for round <- 1..3 do
      assert {:ok, signature} = sign(context.pool)
      assert :ok = Pkcs11Pool.verify(context.pool, "card", :ecdsa, @digest, signature)
      assert Chaos.calls(context.chaos, :C_Login) == round
      # Once for the login of all.
      assert asked(context) == 1 + round
    end
  end

  @tag pool: [pin_retention: :until_logout]
  test "take the retained PIN", context do
    for _ <- 1..3, do: assert({:ok, _} = sign(context.pool))
    assert {Chaos.calls(context.chaos, :C_Login), asked(context)} == {3, 1}
  end

  test "cost others nothing: two calls for a signature", context do
    assert {:ok, _} = sign(context.pool, "plain")
    Chaos.reset_counts(context.chaos)
    for _ <- 1..3, do: assert({:ok, _} = sign(context.pool, "plain"))
    assert Chaos.calls(context.chaos) == %{"C_SignInit" => 3, "C_Sign" => 3}
  end

  test "are used by many at once, and one by one logged in to", context do
    signers = for _ <- 1..20, do: Task.async(fn -> sign(context.pool) end)
    plain = for _ <- 1..20, do: Task.async(fn -> sign(context.pool, "plain") end)
    for result <- Task.await_many(signers ++ plain, 20_000), do: assert({:ok, _} = result)
    assert Chaos.calls(context.chaos, :C_Login) == 20
    assert Chaos.violations(context.chaos) == []
    Poll.until(fn -> Pkcs11Pool.status(context.pool).running == 0 end)
  end

  test "do not keep others waiting while the source is asked", context do
    test = self()

    ChaosToken.give(context.source, fn ->
      send(test, {:asked, self()})
      receive do: (:go -> context.token.pin)
    end)

    signers = for _ <- 1..8, do: Task.async(fn -> sign(context.pool) end)
    assert_receive {:asked, asker}
    for _ <- 1..5, do: assert({:ok, _} = sign(context.pool, "plain"))
    send(asker, :go)

    # Whoever came while it was asked is served by the same answer.
    ChaosToken.give(context.source, context.token.pin)
    for result <- Task.await_many(signers, 10_000), do: assert({:ok, _} = result)
  end

  test "try a wrong PIN once, whoever waits, and never again", context do
    ChaosToken.give(context.source, "999999")

    results =
      1..20
      |> Enum.map(fn _ -> Task.async(fn -> sign(context.pool) end) end)
      |> Task.await_many(60_000)

    for result <- results do
      assert {:error, %Error{reason: :pin_incorrect, executed: false, function: :C_Login}} =
               result
    end

    assert {:error, %Error{reason: :pin_incorrect}} = sign(context.pool)
    assert {Chaos.calls(context.chaos, :C_Login), Chaos.pin_tries(context.chaos)} == {1, 2}
    # The login of all is not touched by it.
    assert {:ok, _} = sign(context.pool, "plain")
  end

  test "are left alone when a wrong PIN would lock the token", context do
    Chaos.token_flags(context.chaos, set: [:user_pin_final_try])
    assert {:error, %Error{reason: :pin_final_try}} = sign(context.pool)
    assert Chaos.calls(context.chaos, :C_Login) == 0
  end

  test "are not tried again when the signature fails after the login", context do
    Chaos.fail(context.chaos, :C_Sign, :session_handle_invalid, count: 1)
    assert {:error, %Error{reason: :session_handle_invalid}} = sign(context.pool)
    assert Chaos.calls(context.chaos, :C_Login) == 1
    assert {:ok, _} = sign(context.pool)
  end

  test "say so when the source fails", context do
    ChaosToken.give(context.source, {:error, :sealed})
    assert {:error, %Error{reason: :pin_source_failed, executed: false}} = sign(context.pool)
    ChaosToken.give(context.source, context.token.pin)
    assert {:ok, _} = sign(context.pool)
  end

  test "work within with_session, on its session", context do
    Pkcs11Pool.with_session(context.pool, fn ->
      for _ <- 1..3, do: assert({:ok, _} = sign(context.pool))
      assert {:ok, _} = sign(context.pool, "plain")
    end)

    assert Chaos.calls(context.chaos, :C_Login) == 3
    Poll.until(fn -> match?(%{leased: 0, running: 0}, Pkcs11Pool.status(context.pool)) end)
  end

  test "are logged in to for each item of a list", context do
    digests = for number <- 1..5, do: :crypto.hash(:sha256, <<number>>)
    assert {:ok, results} = Pkcs11Pool.sign_many(context.pool, "card", :ecdsa, digests)

    for {digest, result} <- Enum.zip(digests, results) do
      assert {:ok, signature} = result
      assert :ok = Pkcs11Pool.verify(context.pool, "card", :ecdsa, digest, signature)
    end

    assert Chaos.calls(context.chaos, :C_Login) == 5
  end

  test "are logged in to for each decryption", context do
    {:ok, _} =
      Pkcs11Pool.generate_key_pair(
        context.pool,
        :rsa_pkcs_key_pair_gen,
        [token: true, label: "rsa", modulus_bits: 2048, encrypt: true],
        token: true,
        label: "rsa",
        private: true,
        decrypt: true,
        always_authenticate: true
      )

    {:ok, ciphertext} = Pkcs11Pool.encrypt(context.pool, "rsa", :rsa_pkcs, "secret")
    Chaos.reset_counts(context.chaos)

    for round <- 1..2 do
      assert Pkcs11Pool.decrypt(context.pool, "rsa", :rsa_pkcs, ciphertext) == {:ok, "secret"}
      assert {Chaos.calls(context.chaos, :C_Login), asked(context)} == {round, 1 + round}
    end

    # More than any modulus: what is below may decrypt to random bytes, so that nobody learns of the padding.
    assert {:error, %Error{reason: :decryption_failed}} =
             Pkcs11Pool.decrypt(context.pool, "rsa", :rsa_pkcs, <<-1::2048>>)
  end

  test "that wait for the PIN are answered when the pool stops", context do
    ChaosToken.give(context.source, fn -> Process.sleep(:infinity) end)
    task = Task.async(fn -> sign(context.pool) end)
    Poll.until(fn -> asked(context) == 2 end)
    stop_supervised!({Pkcs11Pool, context.pool})
    assert {:error, %Error{reason: :draining}} = Task.await(task, 60_000)
  end
end
