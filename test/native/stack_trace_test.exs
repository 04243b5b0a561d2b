defmodule Pkcs11Pool.StackTraceTest do
  # A stack trace may have the arguments of the call that failed, and goes into logs and error trackers: none of ours has data, a PIN, key bytes
  # or parameters.
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.{Error, Lease, Native, Registry}
  alias Pkcs11Pool.Test.SoftHSM

  @canary "canary hunter2 canary hunter2 canary"

  # A process and a reference of another node, as they come with a message.
  @node "other@example"
  defp elsewhere(:pid), do: external(<<88, node_name()::binary, 200::32, 0::32, 1::32>>)

  defp elsewhere(:ref),
    do: external(<<90, 3::16, node_name()::binary, 1::32, 7::32, 8::32, 9::32>>)

  defp node_name, do: <<119, byte_size(@node), @node>>
  defp external(bytes), do: :erlang.binary_to_term(<<131, bytes::binary>>)

  defp pool(_context) do
    opts = SoftHSM.pool_opts(SoftHSM.new_token!(), pool_size: 2)
    start_supervised!({Pkcs11Pool, opts})
    :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
    %{pool: opts[:name]}
  end

  # What the call comes to, with all that a crash report would have of it.
  defp outcome(fun) do
    fun.()
  catch
    kind, reason -> {:raised, kind, reason, __STACKTRACE__}
  end

  defp shown(term),
    do: inspect(term, limit: :infinity, printable_limit: :infinity, structs: false)

  describe "a native function" do
    setup :pool

    test "answers arguments that it does not take with an error, and never raises" do
      functions = for {name, arity} <- Native.__info__(:functions), arity > 0, do: {name, arity}
      assert length(functions) > 20

      for {name, arity} <- functions do
        answer = outcome(fn -> apply(Native, name, List.duplicate(@canary, arity)) end)

        assert {:error, {:interrupted, nil, nil, false, %{cause: cause}}} = answer, "#{name}"
        assert cause =~ "argument"
        refute shown(answer) =~ "hunter2"
      end
    end

    test "does so wherever the one that it does not take stands", %{pool: pool} do
      {:ok, _server, %{native: native}} = Registry.lookup(pool)

      calls = [
        submit: [native, make_ref(), {:digest, {0x250, nil}, @canary}, 5_000],
        run_here: [native, make_ref(), {:digest, {0x250, nil}, @canary}, 5_000],
        submit_within: [native, make_ref(), make_ref(), {:digest, {0x250, nil}, @canary}],
        submit_lease: [native, make_ref(), {:digest, {0x250, nil}, @canary}, 5_000],
        provide_pin: [native, 0, {:ok, @canary}],
        login: [native, make_ref(), @canary, false, 5_000],
        logout: [native, make_ref(), false, 5_000],
        provision: [%{module: @canary}, {:set_pin, 1, @canary, @canary}]
      ]

      for {name, arguments} <- calls,
          position <- 0..(length(arguments) - 1),
          # Any term is a tag, and any that is no binary is no PIN.
          {name, position} not in [submit: 1, run_here: 1, submit_within: 2, submit_lease: 1] and
            {name, position} not in [login: 1, login: 2, logout: 1] do
        arguments = List.replace_at(arguments, position, {:rubbish, [@canary]})
        answer = outcome(fn -> apply(Native, name, arguments) end)

        assert {:error, {:interrupted, nil, nil, false, %{cause: _}}} = answer,
               "#{name}, #{position}"

        refute shown(answer) =~ "hunter2"
      end
    end
  end

  describe "a lease" do
    setup :pool

    test "of another node is :not_owner, and a forged one :lease_ended", %{pool: pool} do
      {:ok, _server, entry} = Registry.lookup(pool)

      there = %Lease{
        pool: pool,
        holder: elsewhere(:pid),
        native: elsewhere(:ref),
        entry: %{entry | native: elsewhere(:ref)}
      }

      for {lease, reason} <- [
            {there, :not_owner},
            {%{there | holder: nil}, :not_owner},
            {%{there | holder: self()}, :lease_ended},
            {%{there | holder: self(), native: make_ref()}, :lease_ended},
            {%{there | holder: self(), native: @canary}, :lease_ended},
            {%{there | holder: self(), native: entry.native}, :lease_ended},
            {%{there | holder: self(), native: make_ref(), entry: entry}, :lease_ended}
          ] do
        for call <- [
              fn -> Pkcs11Pool.sign(lease, "none", :sha256_rsa_pkcs, @canary) end,
              fn -> Pkcs11Pool.digest(lease, :sha256, @canary) end,
              fn -> Pkcs11Pool.digest(lease, :sha256, @canary, operation_timeout: :infinity) end,
              fn -> Pkcs11Pool.encrypt(lease, "none", {:aes_cbc, iv: @canary}, @canary) end,
              fn -> Pkcs11Pool.with_session(lease, fn -> :in end) end
            ] do
          answer = outcome(call)

          case answer do
            {:error, %Error{reason: got}} -> assert got == reason
            {:raised, :error, %ArgumentError{}, _} -> :ok
            other -> flunk("#{inspect(lease)}: #{inspect(other)}")
          end

          refute shown(answer) =~ "hunter2"
        end

        assert {:ok, [{:error, %Error{reason: ^reason}}]} =
                 Pkcs11Pool.sign_many(lease, "none", :sha256_rsa_pkcs, [@canary])

        for call <- [
              fn -> Pkcs11Pool.digest!(lease, :sha256, @canary) end,
              fn -> Pkcs11Pool.sign!(lease, "none", :sha256_rsa_pkcs, @canary) end
            ] do
          assert {:raised, :error, %Error{reason: ^reason}, _stack} = answer = outcome(call)
          refute shown(answer) =~ "hunter2"
        end
      end
    end
  end

  describe "the crash report of a task" do
    setup :pool

    test "that fails in a call shows no data", %{pool: pool} do
      ended = Pkcs11Pool.with_session(pool, & &1)

      failing = [
        fn -> Pkcs11Pool.sign!(pool, "none", :sha256_rsa_pkcs, @canary) end,
        fn -> Pkcs11Pool.digest!(ended, :sha256, @canary) end,
        fn -> Pkcs11Pool.digest!(pool, {:sha256, @canary}, [@canary | @canary]) end,
        fn ->
          Pkcs11Pool.with_session(pool, fn -> Pkcs11Pool.digest!(pool, :none, @canary) end)
        end
      ]

      for fun <- failing do
        log =
          capture_log(fn ->
            {:ok, task} = Task.start(fun)
            monitor = Process.monitor(task)
            assert_receive {:DOWN, ^monitor, :process, ^task, _reason}, 30_000
          end)

        assert log =~ "terminating"
        refute log =~ "hunter2"
      end
    end
  end

  describe "a lease of another node" do
    setup :pool

    test "is an error, or stands for its pool, whatever takes it", %{pool: pool} do
      {:ok, _server, entry} = Registry.lookup(pool)
      native = elsewhere(:ref)

      lease = %Lease{
        pool: pool,
        holder: elsewhere(:pid),
        native: native,
        entry: %{entry | native: native}
      }

      # With everything that takes a pool alone, or a pool and one more argument.
      calls =
        for {name, arity} <- Pkcs11Pool.__info__(:functions),
            arity in 1..2,
            name not in [:child_spec, :start_link, :drain, :drain!] do
          more = if name in [:resize, :resize!], do: [2], else: List.duplicate(0, arity - 1)
          {name, fn -> apply(Pkcs11Pool, name, [lease | more]) end}
        end

      assert length(calls) > 10

      for {name, call} <- calls do
        case outcome(call) do
          {:raised, :error, %struct{}, _} when struct in [ArgumentError, Error] -> :ok
          {:raised, kind, reason, _} -> flunk("#{name}: #{inspect({kind, reason})}")
          {:error, %Error{}} -> :ok
          _done -> :ok
        end
      end
    end
  end

  # Each argument of each call is what it should be, but one, which is rubbish that holds the secret, while all the others hold it where they may.
  describe "a call of the library" do
    setup :pool

    # Not a module attribute: functions and pids are none.
    defp rubbish,
      do: [
        @canary,
        [@canary | @canary],
        {@canary},
        {@canary, @canary},
        {:aes_gcm, [iv: 1, aad: @canary]},
        {:aes_gcm, @canary},
        {:vendor, @canary, @canary},
        {:vendor, 1, {:aes_gcm, [iv: @canary, aad: 1]}},
        {:ecdh1_derive, [kdf: :null, public_data: @canary, shared_data: 1]},
        [@canary],
        [{:value, @canary}, {:value, @canary}],
        [{:value, [@canary]}],
        [{:value, @canary}, @canary],
        [{@canary, @canary}],
        [label: {@canary}],
        [start_date: @canary],
        [wrap_template: [{:value, {@canary}}]],
        "pkcs11:object=x?pin-value=" <> "hunter2",
        %{value: @canary},
        %{@canary => 1},
        fn -> @canary end,
        1,
        -1,
        1.5,
        nil,
        :unheard_of,
        <<1::3>>,
        self()
      ]

    test "that gets rubbish shows none of its arguments' secrets", %{pool: pool} do
      gcm = {:aes_gcm, [iv: @canary, aad: @canary]}

      calls = [
        sign: [pool, "none", gcm, @canary, []],
        verify: [pool, "none", :ecdsa, @canary, @canary, [signature: :der]],
        encrypt: [pool, "none", gcm, @canary, []],
        decrypt: [pool, "none", gcm, @canary, []],
        sign_many: [pool, "none", gcm, [@canary], []],
        verify_many: [pool, "none", gcm, [{@canary, @canary}], []],
        encrypt_many: [pool, "none", :aes_gcm, [{[iv: @canary], @canary}], []],
        decrypt_many: [pool, "none", :aes_gcm, [{[iv: @canary], @canary}], []],
        digest: [pool, :sha256, @canary, []],
        generate_random: [pool, 8, []],
        generate_key: [pool, :aes_key_gen, [value: @canary], []],
        generate_key_pair: [pool, :ec_key_pair_gen, [value: @canary], [value: @canary], []],
        find_objects: [pool, [value: @canary], []],
        find_certificates: [pool, [value: @canary, subject: [common_name: @canary]], []],
        get_attributes: [pool, [value: @canary], [:value], []],
        destroy_object: [pool, [value: @canary], []],
        object_size: [pool, [value: @canary], []],
        create_object: [pool, [value: @canary], []],
        wrap_key: [pool, [value: @canary], {:aes_cbc, iv: @canary}, [value: @canary], []],
        import_private_key: [pool, @canary, [label: @canary], []],
        import_private_key: [
          pool,
          {:ECPrivateKey, 1, @canary, {:namedCurve, @canary}, @canary},
          [],
          []
        ],
        unwrap_key: [pool, [value: @canary], :aes_key_wrap, @canary, [value: @canary], []],
        derive_key: [
          pool,
          [value: @canary],
          {:ecdh1_derive, public_data: @canary},
          [value: @canary],
          []
        ],
        derive_key: [
          pool,
          [value: @canary],
          {:hkdf_derive, hash: :sha256, salt: {:key, [value: @canary]}, info: @canary},
          [value: @canary],
          []
        ],
        generate_key: [
          pool,
          {:pkcs5_pbkd2, prf: :sha256, iterations: 1, salt: @canary, password: @canary},
          [value: @canary],
          []
        ],
        encapsulate: [pool, [value: @canary], :ml_kem, [value: @canary], []],
        decapsulate: [pool, [value: @canary], :ml_kem, @canary, [value: @canary], []],
        copy_object: [pool, [value: @canary], [value: @canary], []],
        set_attributes: [pool, [value: @canary], [value: @canary], []],
        public_key: [pool, [value: @canary], []],
        key_info: [pool, [value: @canary], []],
        login: [pool, fn -> @canary end, []],
        logout: [pool, []],
        with_session: [pool, fn -> :in end, []],
        start_link: [[name: :x, module: "/none", module_args: @canary]],
        child_spec: [[name: :x, module: "/none", module_args: @canary]]
      ]

      place = [module: "/none", slot: {:token_label, "x"}, module_args: @canary]
      source = {:file, "/none"}

      token_calls = [
        init: [place, "label", source],
        init_pin: [place, source, source],
        set_pin: [place, source, source]
      ]

      for module <- [Pkcs11Pool, Pkcs11Pool.Token], do: {:module, _} = Code.ensure_loaded(module)
      calls = Enum.map(calls, &{Pkcs11Pool, &1}) ++ Enum.map(token_calls, &{Pkcs11Pool.Token, &1})

      for {module, {name, arguments}} <- calls,
          name <- [name, :"#{name}!"],
          function_exported?(module, name, length(arguments)),
          position <- 0..(length(arguments) - 1),
          rubbish <- rubbish(),
          # What names a pool, or is what an error quotes, is no secret.
          position > 0 or name in [:start_link, :child_spec] or module != Pkcs11Pool do
        arguments = List.replace_at(arguments, position, rubbish)

        case outcome(fn -> apply(module, name, arguments) end) do
          {:raised, kind, reason, stack} ->
            refute shown({kind, reason, stack}) =~ "hunter2",
                   "#{name}, argument #{position}: #{shown({kind, reason, stack})}"

            assert {:error, true} = {kind, is_exception(reason)}

          {:error, error} ->
            refute shown(error) =~ "hunter2"

          _done ->
            :ok
        end
      end
    end
  end
end
