defmodule Pkcs11Pool.StartTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, SoftHSM}

  setup do
    token = SoftHSM.new_token!()
    %{token: token, pool: String.to_atom(token.label), dir: SoftHSM.dir()}
  end

  defp start(token, options \\ []),
    do: start_supervised({Pkcs11Pool, SoftHSM.pool_opts(token, options)})

  # The error of the pool itself, not the supervisor's description of it.
  defp failure(token, options) do
    assert {:error, {reason, _child}} = start(token, options)
    assert %Error{} = reason
    reason
  end

  defp assert_drained(pool) do
    Poll.until(fn ->
      match?(%{running: 0, waiting: 0, opening: 0, hung: 0}, Pkcs11Pool.status(pool))
    end)
  end

  defp sha256(path), do: :crypto.hash(:sha256, File.read!(path)) |> Base.encode16(case: :lower)

  # What goes wrong in one pool does not touch another.
  setup_all do
    token = SoftHSM.new_token!()
    bystander = :"#{token.label}-bystander"
    start_supervised!({Pkcs11Pool, SoftHSM.pool_opts(token, name: bystander, pool_size: 1)})
    %{bystander: bystander}
  end

  setup %{bystander: bystander} do
    on_exit(fn ->
      assert {:ok, _bytes} = Pkcs11Pool.generate_random(bystander, 8)
      assert_drained(bystander)
    end)
  end

  describe "a start fails for" do
    test "a module that is not there", %{token: token, dir: dir} do
      path = Path.join(dir, "no-such-library.so")
      error = failure(token, module: path)
      assert %Error{reason: :module_load_failed, executed: false} = error
      assert error.details.path == path

      assert Exception.message(error) =~
               "the PKCS#11 module #{path} could not be loaded: No such file"

      assert Exception.message(error) =~ "Compare :module with the vendor's path"
    end

    test "a module that is not there: a supervisor says so in the sentence itself, once", %{
      token: token,
      dir: dir
    } do
      path = Path.join(dir, "no-such-library.so")
      Process.flag(:trap_exit, true)
      child = {Pkcs11Pool, SoftHSM.pool_opts(token, module: path)}
      assert {:error, reason} = Supervisor.start_link([child], strategy: :one_for_one)
      # As Mix and the logger say why an application does not start.
      text = Exception.format_exit(reason)

      assert [_before, _after] =
               String.split(text, "the PKCS#11 module #{path} could not be loaded")

      assert [_before, _after] = String.split(text, "No such file or directory")
      assert text =~ "Compare :module with the vendor's path"
      refute text =~ "%Pkcs11Pool.Error{"
    end

    test "a directory, and a file that is no library", %{token: token, dir: dir} do
      assert Exception.message(failure(token, module: dir)) =~ "could not be loaded: not a file"

      path = Path.join(dir, "text-#{System.unique_integer([:positive])}.so")
      File.write!(path, "this is no library")
      error = failure(token, module: path)
      assert error.reason == :module_load_failed
      assert error.details.path == path
      # The dynamic linker's own words, which differ.
      assert error.details.cause != ""
      assert Exception.message(error) =~ error.details.cause
    end

    test "a library that is no PKCS#11 module", %{token: token, dir: dir} do
      # The NIF's own library is one that is surely there.
      path = Path.join(dir, "nif-#{System.unique_integer([:positive])}.so")
      [nif] = Path.wildcard(Application.app_dir(:pkcs11_pool, "priv/native/pkcs11_pool_nif.so"))
      File.cp!(nif, path)

      error = failure(token, module: path)
      assert error.reason == :module_load_failed
      assert Exception.message(error) =~ "could not be loaded: not a PKCS#11 library"
    end

    test "a wrong digest", %{token: token, pool: pool} do
      right = sha256(token.module)
      wrong = String.duplicate("0", 64)
      error = failure(token, module_sha256: wrong)
      assert error.reason == :module_digest_mismatch
      assert %{expected: ^wrong, actual: ^right} = error.details
      assert Exception.message(error) =~ "is not the file whose digest :module_sha256 gives"

      assert {:ok, _} = start(token, module_sha256: String.upcase(right))
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end

    test "a digest that is not that of what was loaded, whatever the file is by now", %{
      token: token,
      pool: pool
    } do
      loaded = sha256(token.module)
      {:ok, _} = start(token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok

      # An update of the package, by another file of the same name.
      update = token.module <> ".update"
      File.write!(update, File.read!(token.module) <> "more")
      updated = sha256(update)
      File.rename!(update, token.module)

      # Of a module in use whose first pool asked for no digest.
      assert {:ok, _} = start(token, name: {pool, 2}, module_sha256: loaded)
      assert Pkcs11Pool.await_ready({pool, 2}, 30_000) == :ok
      error = failure(token, name: {pool, 3}, module_sha256: updated)
      assert %Error{reason: :module_conflict, details: %{option: :module_sha256}} = error

      # And of one that nobody uses any more: it stays loaded.
      for name <- [pool, {pool, 2}], do: :ok = stop_supervised({Pkcs11Pool, name})

      # As long as the last session is being closed, it is in use.
      Poll.until(fn ->
        match?(
          %{reason: :module_digest_mismatch, details: %{actual: ^loaded}},
          failure(token, name: {pool, 3}, module_sha256: updated)
        )
      end)

      assert {:ok, _} = start(token, name: {pool, 3}, module_sha256: loaded)
      assert Pkcs11Pool.await_ready({pool, 3}, 30_000) == :ok
    end

    test "a user name, where the module cannot log in with one", %{token: token, pool: pool} do
      test = self()
      pin = fn -> send(test, :asked) end
      error = failure(token, username: "operator", pin: pin)
      assert %Error{reason: :function_not_supported, function: :C_LoginUser, code: nil} = error
      assert error.details == %{path: token.module, option: :username}
      assert Exception.message(error) =~ "does not offer C_LoginUser (PKCS#11 3.0)"
      refute_received :asked
      assert {:ok, _} = start(token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end

    test "a module in use with other options", %{token: token, pool: pool} do
      {:ok, _} = start(token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok

      for {option, value} <- [
            module_env: Map.put(token.module_env, "OTHER", "value"),
            module_args: "other",
            module_sha256: String.duplicate("0", 64)
          ] do
        error = failure(token, [{:name, {pool, 2}}, {option, value}])
        assert error.reason == :module_conflict
        assert error.details.option == option

        assert Exception.message(error) =~
                 "Give all pools of one module the same #{inspect(option)}"
      end

      # What is not named is not asked for.
      assert {:ok, _} = start(token, name: {pool, 3}, module_env: %{})
      assert Pkcs11Pool.await_ready({pool, 3}, 30_000) == :ok
    end

    test "a token that another pool has for itself, or wants so", %{token: token, pool: pool} do
      {:ok, _} = start(token, type: :token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
      error = failure(token, name: {pool, 2})
      assert error.reason == :slot_in_use
      assert Exception.message(error) =~ "a pool of type :token has its token for itself"

      # However the path is spelled.
      link = token.module <> ".link"
      File.ln_s!(token.module, link)
      assert failure(token, name: {pool, 2}, module: link).reason == :slot_in_use

      stop_supervised!({Pkcs11Pool, pool})
      assert {:ok, _} = start(token, name: {pool, 2})
      assert failure(token, type: :token).reason == :slot_in_use
    end

    test "a token that several pools want for themselves at the same time: one has it", %{
      token: token
    } do
      test = self()

      racers =
        for racer <- 1..6 do
          opts = SoftHSM.pool_opts(token, name: {token.label, racer}, type: :token, pool_size: 1)

          Task.async(fn ->
            Process.flag(:trap_exit, true)
            started = Pkcs11Pool.start_link(opts)
            send(test, :started)
            receive do: (:stop -> :ok)
            with {:ok, supervisor} <- started, do: Supervisor.stop(supervisor)
            started
          end)
        end

      for _ <- racers, do: assert_receive(:started, 30_000)
      for racer <- racers, do: send(racer.pid, :stop)

      {winners, losers} =
        racers |> Task.await_many(60_000) |> Enum.split_with(&match?({:ok, _}, &1))

      assert length(winners) == 1
      for {:error, error} <- losers, do: assert(error.reason == :slot_in_use)
    end
  end

  describe "a start does not fail for" do
    test "a slot that is not there: calls name those that are", %{token: token, pool: pool} do
      for {slot, wanted} <- [
            {{:token_label, "nobody's"}, ~s(token label "nobody's")},
            {{:token_serial, "0000"}, ~s(token serial "0000")},
            {{:slot_id, 4_000_000_000}, "slot id 4000000000"},
            {"pkcs11:token=nobody%27s", ~s(PKCS#11 URI with token "nobody's")}
          ] do
        {:ok, _} = start(token, slot: slot)
        assert %{state: :down, down: %Error{reason: :slot_not_found}} = Pkcs11Pool.status(pool)

        for result <- [
              Pkcs11Pool.generate_random(pool, 8),
              Pkcs11Pool.await_ready(pool, 0),
              Pkcs11Pool.find_objects(pool, [])
            ] do
          assert {:error, %Error{reason: :slot_not_found, executed: false} = error} = result
          assert {token.label, token.serial, token.slot_id} in error.details.available
          message = Exception.message(error)
          assert message =~ "no slot with a token matches :slot (#{wanted})"
          assert message =~ ~s("#{token.label}" with serial number "#{token.serial}")
        end

        assert_drained(pool)
        stop_supervised!({Pkcs11Pool, pool})
      end
    end

    test "a version of the module that is another number", %{token: token, pool: pool} do
      {:ok, %{module: %{version: {major, minor}}}} =
        Pkcs11Pool.Token.list(module: token.module, module_env: token.module_env)

      # A leading zero is none of the number's.
      {:ok, _} =
        start(token, slot: "PKCS11:token=#{token.label};library-version=#{major}.0#{minor}")

      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
      stop_supervised!({Pkcs11Pool, pool})

      {:ok, _} =
        start(token, slot: "pkcs11:token=#{token.label};library-version=#{major}.#{minor + 1}")

      assert {:error, %Error{reason: :slot_not_found}} = Pkcs11Pool.await_ready(pool, 0)
    end

    test "two tokens of one label", %{pool: pool} do
      module = SoftHSM.new_module!()
      label = "twin-#{System.unique_integer([:positive])}"
      one = SoftHSM.new_token!(module: module, label: label)
      two = SoftHSM.new_token!(module: module, label: label)
      {:ok, _} = start(one, name: pool, slot: {:token_label, label})

      assert {:error, %Error{reason: :ambiguous_slot} = error} = Pkcs11Pool.await_ready(pool, 0)

      message = Exception.message(error)
      assert message =~ "more than one slot matches :slot"
      assert message =~ one.serial and message =~ two.serial
      assert message =~ "Name it by {:token_serial, serial}"

      stop_supervised!({Pkcs11Pool, pool})
      {:ok, _} = start(one, name: pool, slot: "pkcs11:token=#{label};serial=#{two.serial}")
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end

    test "a token that is made later", %{token: token, pool: pool} do
      label = "late-#{System.unique_integer([:positive])}"
      # Lazy, lest it log in between the making of the token and of its PIN.
      {:ok, _} = start(token, slot: {:token_label, label}, name: pool, lazy: true)
      assert {:error, %Error{reason: :slot_not_found}} = Pkcs11Pool.await_ready(pool, 0)
      SoftHSM.new_token!(label: label, module: token.module, pin: token.pin)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
      assert %{state: :up} = Pkcs11Pool.status(pool)
    end

    test "a module that C_Initialize does not take", %{token: token, pool: pool, dir: dir} do
      conf = Path.join(dir, "#{pool}.conf")
      File.write!(conf, "directories.tokendir = #{dir}/no-such-directory\n")
      {:ok, _} = start(token, module_env: %{"SOFTHSM2_CONF" => conf})
      assert {:error, %Error{} = error} = Pkcs11Pool.await_ready(pool, 0)
      assert %Error{reason: :module_initialize_failed, function: :C_Initialize} = error
      assert %{code: 5, executed: false, details: %{path: path}} = error
      assert path == token.module
      message = Exception.message(error)

      assert message =~
               "pool #{inspect(pool)}: the PKCS#11 module #{path} did not initialize " <>
                 "(C_Initialize returned CKR_GENERAL_ERROR (0x5))"

      assert message =~ "Check its configuration"
      # The copy of SoftHSM has its name.
      assert message =~ "SOFTHSM2_CONF"
      assert message =~ ":module_env"
      assert %{state: :down, health: :down, health_reason: ^error} = Pkcs11Pool.status(pool)

      assert {:error, %Error{reason: :module_initialize_failed}} =
               Pkcs11Pool.Token.list(module: token.module, module_env: %{"SOFTHSM2_CONF" => conf})
    end

    test "a token behind a module that initializes later", %{token: token, pool: pool, dir: dir} do
      conf = Path.join(dir, "#{pool}.conf")
      {:ok, _} = start(token, module_env: %{"SOFTHSM2_CONF" => conf})

      assert {:error, %Error{reason: :module_initialize_failed}} = Pkcs11Pool.await_ready(pool, 0)

      File.cp!(token.module_env["SOFTHSM2_CONF"], conf)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end
  end

  describe "start: :strict fails for" do
    test "a slot that is not there, and a PIN that is wrong", %{token: token, pool: pool} do
      error = failure(token, start: :strict, slot: {:token_label, "nobody's"})
      assert error.reason == :slot_not_found
      assert failure(token, start: :strict, pin: fn -> "wrong" end).reason == :pin_incorrect
      assert_raise Error, ~r/no such pool is running/, fn -> Pkcs11Pool.status(pool) end
    end

    test "nothing when all is well", %{token: token, pool: pool} do
      assert {:ok, _} = start(token, start: :strict)
      assert %{idle: idle, login: :logged_in} = Pkcs11Pool.status(pool)
      assert idle > 0
    end
  end

  describe "options" do
    test "that are wrong raise before anything is loaded", %{token: token} do
      # Nothing of this module could be loaded, and that is not what is complained of.
      good = SoftHSM.pool_opts(token, module: "/no/such/library.so")

      for {change, message} <- [
            {[pool_size: 0], ~r/invalid value for :pool_size option: expected/},
            {[type: :token, pool_size: 2],
             ~r/invalid value for :pool_size option: expected 1 for a pool of type :token/},
            {[pin: "1234"],
             ~r/invalid value for :pin option: a PIN must not be given as a string/},
            {[slot: "payments"], ~r/invalid value for :slot option: expected/},
            {[module: "relative.so"], ~r/invalid value for :module option: expected/},
            {[module_sha256: "beef"], ~r/invalid value for :module_sha256 option: expected/},
            {[queue_timeout: -1], ~r/invalid value for :queue_timeout option: expected/},
            {[poolsize: 2], ~r/unknown options \[:poolsize\].*did you mean :pool_size\?/s}
          ] do
        error =
          assert_raise ArgumentError, message, fn ->
            Pkcs11Pool.start_link(Keyword.merge(good, change))
          end

        refute Exception.message(error) =~ "1234"
      end

      for name <- [:name, :module, :slot] do
        assert_raise ArgumentError, ~r/required #{inspect(name)} option not found/, fn ->
          good |> Keyword.delete(name) |> Pkcs11Pool.start_link()
        end
      end
    end

    # None of these gets so far, as they are checked before.
    test "that the native library does not take are an error without the variables' values", %{
      token: token
    } do
      options = Pkcs11Pool.Options.validate!(SoftHSM.pool_opts(token))
      options = %{options | module_env: fn -> %{"SECRET" => "hunter2\xE9"} end}

      log =
        capture_log(fn ->
          Process.flag(:trap_exit, true)
          assert {:error, reason} = Pkcs11Pool.Supervisor.start_link(options)
          assert {:shutdown, {:failed_to_start_child, _server, %Error{} = error}} = reason
          assert %Error{reason: :interrupted, executed: false} = error
          refute inspect(reason, structs: false, limit: :infinity) =~ "hunter2"
          assert Exception.message(error) =~ "did not take an argument"
        end)

      refute log =~ "hunter2"
    end

    test "a name is taken once", %{token: token, pool: pool} do
      {:ok, supervisor} = start(token)
      options = SoftHSM.pool_opts(token)
      assert Pkcs11Pool.start_link(options) == {:error, {:already_started, supervisor}}
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end

    test "a name may be any term", %{token: token} do
      for name <- ["text", {:tuple, 1}, 42, %{map: true}] do
        {:ok, _} = start(token, name: name)
        assert Pkcs11Pool.await_ready(name, 30_000) == :ok
        stop_supervised!({Pkcs11Pool, name})
      end
    end

    # SoftHSM reads its configuration by libc's getenv, which does not see System.put_env.
    test "module_env is what the module finds in its environment", %{token: token, pool: pool} do
      refute System.get_env("SOFTHSM2_CONF") == token.module_env["SOFTHSM2_CONF"]
      {:ok, _} = start(token)
      assert Pkcs11Pool.await_ready(pool, 30_000) == :ok
    end
  end

  test "modules that want one variable with different values may start at once" do
    tokens = for _ <- 1..8, do: SoftHSM.new_token!()

    results =
      tokens
      |> Task.async_stream(
        fn token ->
          {:ok, supervisor} = Pkcs11Pool.start_link(SoftHSM.pool_opts(token, pool_size: 1))
          ready = Pkcs11Pool.status(String.to_atom(token.label)).state
          Supervisor.stop(supervisor)
          ready
        end,
        max_concurrency: 8,
        timeout: 20_000
      )
      |> Enum.map(fn {:ok, state} -> state end)

    assert results == List.duplicate(:up, 8)
  end

  describe "a call" do
    test "to an unknown pool", _context do
      for result <- [
            Pkcs11Pool.sign(:nobody, "key", :ecdsa, "data"),
            Pkcs11Pool.verify(:nobody, "key", :ecdsa, "data", "signature"),
            Pkcs11Pool.digest(:nobody, :sha256, "data"),
            Pkcs11Pool.generate_random(:nobody, 8),
            Pkcs11Pool.generate_key_pair(:nobody, :ec_key_pair_gen, [token: true], token: true),
            Pkcs11Pool.find_objects(:nobody, []),
            Pkcs11Pool.get_attributes(:nobody, "key", [:id]),
            Pkcs11Pool.destroy_object(:nobody, "key"),
            Pkcs11Pool.public_key(:nobody, "key"),
            Pkcs11Pool.mechanisms(:nobody),
            Pkcs11Pool.await_ready(:nobody, 100)
          ] do
        assert {:error, %Error{reason: :pool_not_found, pool: :nobody, executed: false}} = result
      end

      assert_raise Error, ~r/pool :nobody: no such pool is running/, fn ->
        Pkcs11Pool.status(:nobody)
      end
    end

    test "of a wrong shape raises, and names what is wrong", %{bystander: pool} do
      for {call, message} <- [
            {fn -> Pkcs11Pool.sign(pool, "key", :sha256_rsa_pkc, "data") end,
             ~r/unknown mechanism :sha256_rsa_pkc, did you mean :sha256_rsa_pkcs\?/},
            {fn -> Pkcs11Pool.sign(pool, "key", "ecdsa", "data") end, ~r/expected a mechanism/},
            {fn -> Pkcs11Pool.sign(pool, "key", {:rsa_pkcs_pss, []}, "data") end,
             ~r/mechanism :rsa_pkcs_pss needs parameters/},
            {fn -> Pkcs11Pool.sign(pool, :key, :ecdsa, "data") end, ~r/expected a key/},
            {fn -> Pkcs11Pool.sign(pool, [lable: "key"], :ecdsa, "data") end,
             ~r/unknown attribute :lable, did you mean :label\?/},
            {fn -> Pkcs11Pool.sign(pool, "pkcs11:object=%zz", :ecdsa, "data") end,
             ~r/PKCS#11 URI/},
            {fn -> Pkcs11Pool.sign(pool, "key", :ecdsa, :data) end,
             ~r/expected data to be iodata/},
            {fn -> Pkcs11Pool.sign(pool, "key", :ecdsa, [1000]) end,
             ~r/expected data to be iodata/},
            {fn -> Pkcs11Pool.verify(pool, "key", :ecdsa, "data", 1) end,
             ~r/expected signature to be iodata/},
            {fn -> Pkcs11Pool.digest(pool, :sha256, nil) end, ~r/expected data to be iodata/},
            {fn -> Pkcs11Pool.find_objects(pool, label: :key) end, ~r/:label/},
            {fn -> Pkcs11Pool.find_objects(pool, "key") end, ~r/template/},
            {fn -> Pkcs11Pool.find_objects(pool, [], queue_timeut: 1) end,
             ~r/unknown options \[:queue_timeut\].*did you mean :queue_timeout\?/s},
            {fn -> Pkcs11Pool.digest(pool, :sha256, "data", operation_timeout: "1") end,
             ~r/invalid value for :operation_timeout option/},
            {fn -> Pkcs11Pool.get_attributes(pool, "key", :label) end,
             ~r/expected a list of attributes' names/}
          ] do
        assert_raise ArgumentError, message, call
      end
    end

    test "with a twin that raises", %{token: token, pool: pool} do
      {:ok, _} = start(token)
      template = [token: true, label: "twin", ec_params: :secp256r1]

      {public, private} =
        Pkcs11Pool.generate_key_pair!(pool, :ec_key_pair_gen, template,
          token: true,
          label: "twin",
          sign: true
        )

      digest = Pkcs11Pool.digest!(pool, :sha256, "data")
      signature = Pkcs11Pool.sign!(pool, private, :ecdsa, digest, signature: :der)
      assert :ok = Pkcs11Pool.verify!(pool, public, :ecdsa, digest, signature, signature: :der)
      assert {{:ECPoint, _}, _} = Pkcs11Pool.public_key!(pool, public)
      assert %{label: "twin"} = Pkcs11Pool.get_attributes!(pool, public, [:label])
      assert byte_size(Pkcs11Pool.generate_random!(pool, 8)) == 8
      assert [^public] = Pkcs11Pool.find_objects!(pool, class: :public_key)

      assert_raise Error, ~r/the signature is not valid/, fn ->
        Pkcs11Pool.verify!(pool, public, :ecdsa, digest, "rubbish")
      end

      assert :ok = Pkcs11Pool.destroy_object!(pool, private)

      assert_raise Error, ~r/no object on the token/, fn ->
        Pkcs11Pool.sign!(pool, "twin", :ecdsa, "")
      end

      assert_drained(pool)
    end
  end
end
