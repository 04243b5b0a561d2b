defmodule Pkcs11Pool.SelectTest do
  # Which of several keys with one label or id is meant: `:select`.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Object}
  alias Pkcs11Pool.Test.{ChaosToken, Poll, Pools, SoftHSM}
  alias Pkcs11Pool.Testing.Chaos

  @digest :crypto.hash(:sha256, "what is to be signed")

  setup context do
    %{token: token, chaos: chaos} = ChaosToken.for_test!()
    opts = SoftHSM.pool_opts(token, [pool_size: 2] ++ Map.get(context, :pool_opts, []))
    start_supervised!({Pkcs11Pool, opts})
    on_exit(fn -> assert Chaos.violations(chaos) == [] end)
    %{pool: opts[:name], chaos: chaos, token: token}
  end

  defp pair!(pool, id, date) do
    common = [token: true, label: "key", id: id, start_date: date]

    {public, _private} =
      Pkcs11Pool.generate_key_pair!(
        pool,
        :ec_key_pair_gen,
        common ++ [ec_params: :secp256r1, verify: true],
        common ++ [private: true, sign: true]
      )

    Pkcs11Pool.public_key!(pool, public)
  end

  defp sign(pool, key, opts),
    do: Pkcs11Pool.sign(pool, key, :ecdsa, @digest, [signature: :der] ++ opts)

  defp assert_signed_by(public, result) do
    assert {:ok, signature} = result
    assert :public_key.verify({:digest, @digest}, :sha256, signature, public)
  end

  defp day(days), do: Date.add(Date.utc_today(), days)

  # By the id.
  defp by(id), do: fn candidates -> Enum.find(candidates, &(&1.id == id)) end

  test "without it, nothing is chosen", %{pool: pool} do
    pair!(pool, <<1>>, day(-2))
    pair!(pool, <<2>>, day(-1))
    assert {:error, %Error{reason: :ambiguous_key}} = sign(pool, "key", [])
  end

  describe ":newest" do
    test "is the key with the last start date that has come, in every call", %{pool: pool} do
      old = pair!(pool, <<1>>, ~D[2020-01-01])
      new = pair!(pool, <<2>>, day(-1))
      pair!(pool, <<3>>, day(2))
      pair!(pool, <<4>>, "")
      opts = [select: :newest]

      for key <- ["key", [label: "key"], "pkcs11:object=key;type=private"] do
        assert_signed_by(new, sign(pool, key, opts))
      end

      {:ok, raw} = Pkcs11Pool.sign(pool, "key", :ecdsa, @digest, opts)
      assert Pkcs11Pool.verify(pool, "key", :ecdsa, @digest, raw, opts) == :ok
      {:ok, der} = sign(pool, "key", opts)

      assert Pkcs11Pool.verify(pool, "key", :ecdsa, @digest, der, [signature: :der] ++ opts) ==
               :ok

      assert {:ok, [{:ok, first}, {:ok, _second}]} =
               Pkcs11Pool.sign_many(pool, "key", :ecdsa, [@digest, @digest], opts)

      assert {:ok, [{:ok, true}, {:error, %Error{reason: :signature_invalid}}]} =
               Pkcs11Pool.verify_many(
                 pool,
                 "key",
                 :ecdsa,
                 [{@digest, first}, {@digest, <<1::512>>}],
                 opts
               )

      assert Pkcs11Pool.public_key(pool, "key", opts) == {:ok, new}
      assert {:ok, %{id: <<2>>}} = Pkcs11Pool.key_info(pool, "key", opts)

      assert {:ok, %{id: <<2>>}} =
               Pkcs11Pool.get_attributes(pool, [class: :private_key, label: "key"], [:id], opts)

      # What names one key is that one.
      {:ok, [object]} = Pkcs11Pool.find_objects(pool, class: :private_key, id: <<1>>)
      assert_signed_by(old, sign(pool, object, opts))
      assert_signed_by(old, sign(pool, {:public_key, old}, opts))
      Pools.drained!(pool)
    end

    test "is a secret key, too", %{pool: pool} do
      for {id, date} <- [{<<1>>, ~D[2021-05-05]}, {<<2>>, ~D[2022-05-05]}] do
        {:ok, _} =
          Pkcs11Pool.generate_key(pool, :aes_key_gen,
            token: true,
            label: "aes",
            id: id,
            value_len: 32,
            start_date: date,
            # SoftHSM does not read the date of a private one.
            private: false,
            encrypt: true,
            decrypt: true
          )
      end

      {:ok, sealed} = Pkcs11Pool.encrypt(pool, "aes", :aes_ecb, <<0::128>>, select: :newest)
      assert Pkcs11Pool.encrypt(pool, [id: <<2>>], :aes_ecb, <<0::128>>) == {:ok, sealed}

      assert Pkcs11Pool.decrypt(pool, "aes", :aes_ecb, sealed, select: by(<<2>>)) ==
               {:ok, <<0::128>>}
    end

    test "is not guessed where a date cannot be read", %{pool: pool} do
      pair!(pool, <<1>>, ~D[2020-01-01])
      pair!(pool, <<2>>, ~D[2021-01-01])
      {:ok, [public]} = Pkcs11Pool.find_objects(pool, class: :public_key, id: <<2>>)
      :ok = Pkcs11Pool.destroy_object(pool, public)

      assert {:error, %Error{reason: :ambiguous_key, executed: false} = error} =
               sign(pool, "key", select: :newest)

      assert error.details.newest == :start_date_unreadable
      assert Exception.message(error) =~ "fails to read the CKA_START_DATE"
    end

    test "needs no date where there is one key, and is an error that says why where none tells",
         %{pool: pool} do
      assert {:error, %Error{reason: :key_not_found}} = sign(pool, "key", select: :newest)
      only = pair!(pool, <<1>>, "")
      assert_signed_by(only, sign(pool, "key", select: :newest))

      pair!(pool, <<2>>, "")

      assert {:error, %Error{reason: :ambiguous_key, executed: false} = error} =
               sign(pool, "key", select: :newest)

      assert error.details.newest == :no_start_date
      assert Enum.sort(error.details.candidates) == [{<<1>>, "key"}, {<<2>>, "key"}]
      assert Exception.message(error) =~ "none of them has a CKA_START_DATE"

      for id <- [<<3>>, <<4>>], do: pair!(pool, id, day(-3))

      assert {:error, %Error{details: %{newest: :same_start_date}} = error} =
               sign(pool, "key", select: :newest)

      assert Exception.message(error) =~ "several have the last CKA_START_DATE"
    end

    test "is none whose time has not come", %{pool: pool} do
      for id <- [<<1>>, <<2>>], do: pair!(pool, id, day(3))

      assert {:error, %Error{details: %{newest: :start_date_in_future}}} =
               sign(pool, "key", select: :newest)
    end

    test "is the highest of the versions of one key of Google's", %{pool: pool} do
      id = &"projects/p/locations/l/keyRings/r/cryptoKeys/key/cryptoKeyVersions/#{&1}"
      [_nine, ten, _two] = for number <- [9, 10, 2], do: pair!(pool, id.(number), "")
      assert_signed_by(ten, sign(pool, "key", select: :newest))
      pair!(pool, "another kind of id", "")
      assert {:error, %Error{reason: :ambiguous_key}} = sign(pool, "key", select: :newest)
    end

    test "costs no further call while it is remembered, and a key that the pool makes is noticed at once",
         %{pool: pool, chaos: chaos} do
      pair!(pool, <<1>>, day(-9))
      old = pair!(pool, <<2>>, day(-8))
      assert_signed_by(old, sign(pool, "key", select: :newest))
      Chaos.reset_counts(chaos)
      assert_signed_by(old, sign(pool, "key", select: :newest))
      assert Chaos.calls(chaos, :C_FindObjectsInit) == 0
      assert Chaos.calls(chaos, :C_GetAttributeValue) == 0
      # Nor is it what the label means without it.
      assert {:error, %Error{reason: :ambiguous_key}} = sign(pool, "key", [])

      new = pair!(pool, <<3>>, day(-1))
      assert_signed_by(new, sign(pool, "key", select: :newest))
      :ok = Pkcs11Pool.logout(pool)
      assert_signed_by(new, sign(pool, "key", select: :newest))
      :ok = Pkcs11Pool.reload(pool)
      assert_signed_by(new, sign(pool, "key", select: :newest))
    end

    @tag pool_opts: [key_cache_ttl: 50]
    test "is chosen anew after :key_cache_ttl, when others have put a new one on the token",
         %{pool: pool, token: token} do
      version = &"l/cryptoKeys/key/cryptoKeyVersions/#{&1}"
      new = pair!(pool, version.(1), "")
      old = pair!(pool, version.(2), "")
      assert_signed_by(old, sign(pool, "key", select: :newest))

      [from, to] = for number <- [1, 3], do: Base.encode16(version.(number))
      SoftHSM.pkcs11_tool!(token, ["--set-id", to, "--type", "privkey", "--id", from])

      Poll.until(fn ->
        {:ok, signature} = sign(pool, "key", select: :newest)
        :public_key.verify({:digest, @digest}, :sha256, signature, new)
      end)
    end
  end

  describe "a function" do
    test "is given the candidates in the caller's process, and its choice is used", %{pool: pool} do
      one = pair!(pool, <<1>>, day(-2))
      two = pair!(pool, <<2>>, day(-1))
      test = self()

      select = fn candidates ->
        send(test, {:candidates, self(), candidates})
        Enum.find(candidates, &(&1.id == <<1>>))
      end

      assert_signed_by(one, sign(pool, "key", select: select))
      assert_received {:candidates, ^test, candidates}
      assert [%Object{class: :private_key, label: "key"}, %Object{}] = candidates
      assert Enum.sort(for candidate <- candidates, do: candidate.id) == [<<1>>, <<2>>]

      assert_signed_by(two, sign(pool, "key", select: by(<<2>>)))
      assert Pkcs11Pool.public_key(pool, "key", select: by(<<1>>)) == {:ok, one}
      {:ok, signature} = Pkcs11Pool.sign(pool, "key", :ecdsa, @digest, select: by(<<1>>))

      assert {:ok, [{:ok, true}]} =
               Pkcs11Pool.verify_many(pool, "key", :ecdsa, [{@digest, signature}],
                 select: by(<<1>>)
               )

      # Once for each call, also where the key is asked for its curve before.
      {:ok, der} = sign(pool, "key", select: by(<<2>>))
      count = :counters.new(1, [])

      select = fn candidates ->
        :counters.add(count, 1, 1)
        by(<<2>>).(candidates)
      end

      opts = [signature: :der, select: select]
      assert Pkcs11Pool.verify(pool, "key", :ecdsa, @digest, der, opts) == :ok
      assert :counters.get(count, 1) == 1

      assert {:ok, [{:ok, true}]} =
               Pkcs11Pool.verify_many(pool, "key", :ecdsa, [{@digest, der}], opts)

      assert :counters.get(count, 1) == 2
      assert Pkcs11Pool.sign_many(pool, "key", :ecdsa, [], select: select) == {:ok, []}
      assert :counters.get(count, 1) == 2
      Pools.drained!(pool)
    end

    test "is asked also of one candidate, and may choose none", %{pool: pool} do
      pair!(pool, <<1>>, "")
      none = fn [_one] -> nil end
      assert {:error, %Error{reason: :key_not_found}} = sign(pool, "key", select: none)

      assert {:ok, [{:error, %Error{reason: :key_not_found}}]} =
               Pkcs11Pool.sign_many(pool, "key", :ecdsa, [@digest], select: none)

      never = fn _candidates -> flunk("nothing to choose from") end
      assert {:error, %Error{reason: :key_not_found}} = sign(pool, "nothing", select: never)
      assert {:error, %Error{reason: :pool_not_found}} = sign(:nobody, "key", select: never)

      assert {:error, %Error{reason: :pool_not_found}} =
               Pkcs11Pool.sign_many(:nobody, "key", :ecdsa, [@digest], select: never)

      assert {:error, %Error{reason: :object_of_other_token}} =
               sign(pool, "pkcs11:token=other;object=key", select: never)

      {:ok, [object]} = Pkcs11Pool.find_objects(pool, class: :private_key)
      assert {:ok, _signature} = sign(pool, object, select: never)
    end

    test "that returns what it was not given, or raises, fails as the caller's own code does",
         %{pool: pool} do
      pair!(pool, <<1>>, "")
      {:ok, [public]} = Pkcs11Pool.find_objects(pool, class: :public_key)

      for bad <- [fn list -> list end, fn _ -> :ok end, fn _ -> public end] do
        assert_raise ArgumentError, ~r/must return one of the objects/, fn ->
          sign(pool, "key", select: bad)
        end
      end

      assert_raise RuntimeError, "mine", fn ->
        sign(pool, "key", select: fn _ -> raise "mine" end)
      end

      assert catch_throw(sign(pool, "key", select: fn _ -> throw(:mine) end)) == :mine
      Pools.drained!(pool)
    end

    test "may call the pool itself, and chooses within with_session/3", %{pool: pool} do
      pair!(pool, <<1>>, ~D[2020-01-01])
      new = pair!(pool, <<2>>, ~D[2021-01-01])

      select = fn candidates ->
        Enum.max_by(candidates, &Pkcs11Pool.get_attributes!(pool, &1, [:id]).id)
      end

      assert_signed_by(new, sign(pool, "key", select: select))

      Pkcs11Pool.with_session(pool, fn lease ->
        assert_signed_by(new, sign(lease, "key", select: select))
        assert_signed_by(new, sign(lease, "key", select: :newest))
      end)

      Pools.drained!(pool)
    end
  end

  test "other values raise, and so does the option where nothing is to be chosen", %{pool: pool} do
    for bad <- [:oldest, nil, fn -> :a end, fn _, _ -> :a end, "newest"] do
      assert_raise ArgumentError, ~r/invalid value for :select option/, fn ->
        sign(pool, "key", select: bad)
      end
    end

    for call <- [
          &Pkcs11Pool.destroy_object(&1, "key", select: :newest),
          &Pkcs11Pool.set_attributes(&1, "key", [label: "a"], select: :newest),
          &Pkcs11Pool.copy_object(&1, "key", [label: "a"], select: :newest)
        ] do
      assert_raise ArgumentError, ~r/unknown option.*:select/, fn -> call.(pool) end
    end
  end
end
