defmodule Pkcs11Pool.StopTest do
  use ExUnit.Case, async: true

  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  @size 2
  @queued 20

  defmodule Signer do
    @moduledoc "A user's process, which calls the pool."
    use GenServer

    def start_link(pool), do: GenServer.start_link(__MODULE__, pool)

    @impl GenServer
    def init(pool), do: {:ok, pool}

    @impl GenServer
    def handle_call(:large, _from, pool), do: {:reply, Pools.large(pool), pool}
  end

  defmodule App do
    @moduledoc "A user's application."
    use Application

    @impl Application
    def start(_type, opts) do
      children = [{Pkcs11Pool, opts}, {Signer, opts[:name]}]
      Supervisor.start_link(children, strategy: :one_for_one)
    end
  end

  setup context do
    opts = Keyword.merge([pool_size: @size], Map.get(context, :pool, []))
    token = SoftHSM.valve!(SoftHSM.new_token!())
    opts = SoftHSM.pool_opts(token, opts)
    %{opts: opts, pool: opts[:name], token: token}
  end

  describe "Supervisor.stop" do
    test "answers the waiting at once, and the running when they are done",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      {running, queued} = load(pool, token)
      stopper = Task.async(fn -> Supervisor.stop(top) end)

      for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
      # Nothing new is taken meanwhile.
      assert_refused(Pkcs11Pool.generate_random(pool, 8))
      SoftHSM.let_go!(token)
      for result <- Task.await_many(running, 60_000), do: assert_done(result)
      Task.await(stopper, 60_000)

      assert {:error, %Error{reason: :pool_not_found}} = Pkcs11Pool.generate_random(pool, 8)
      assert_starts_again(opts)
    end

    for timeout <- [0, 100] do
      @tag pool: [shutdown_timeout: timeout]
      test "answers the running, too, when a :shutdown_timeout of #{timeout} ms has passed",
           %{opts: opts, pool: pool, token: token} do
        top = start(opts)
        {running, queued} = load(pool, token)
        Supervisor.stop(top)

        for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
        for result <- Task.await_many(running, 60_000), do: assert_given_up(result)
        SoftHSM.let_go!(token)
        assert_starts_again(opts)
      end
    end

    test "starts and stops ten times on the same token", %{opts: opts, pool: pool} do
      for _ <- 1..10 do
        top = start(opts)
        assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
        Supervisor.stop(top)
      end
    end
  end

  describe ":kill" do
    test "of the pool server answers everybody, and the pool goes on with another",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      {running, queued} = load(pool, token)
      server = Pools.server(pool)
      Process.exit(server, :kill)

      for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
      SoftHSM.let_go!(token)
      for result <- Task.await_many(running, 60_000), do: assert_done(result)
      assert_recovers(pool)
      assert Pools.server(pool) != server
      Supervisor.stop(top)
    end

    @tag pool: [shutdown_timeout: 100]
    test "of the pool server answers the running, too, when :shutdown_timeout has passed",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      {running, queued} = load(pool, token)
      Process.exit(Pools.server(pool), :kill)

      for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
      for result <- Task.await_many(running, 60_000), do: assert_given_up(result)
      SoftHSM.let_go!(token)
      assert_recovers(pool)
      Supervisor.stop(top)
    end

    @tag pool: [type: :token, pool_size: 1, lazy: false]
    test "of the pool server does not leave a token of one session claimed",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      :ok = Pkcs11Pool.await_ready(pool, 30_000)
      [running] = Pools.stuck!(pool, token, 1)
      Process.exit(Pools.server(pool), :kill)
      SoftHSM.let_go!(token)

      assert_done(Task.await(running, 60_000))
      assert_recovers(pool)
      assert Process.alive?(top)
      Supervisor.stop(top)
    end

    test "of the pool's supervisor answers everybody, and the one above starts the pool again",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      {running, queued} = load(pool, token)
      Process.exit(Pools.supervisor(pool), :kill)

      for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
      SoftHSM.let_go!(token)
      for result <- Task.await_many(running, 60_000), do: assert_done(result)
      assert_recovers(pool)
      assert Process.alive?(top)
      Supervisor.stop(top)
    end

    test "of the runners' supervisor answers everybody, and the pool goes on",
         %{opts: opts, pool: pool, token: token} do
      top = start(opts)
      {running, queued} = load(pool, token)
      Process.exit(Pkcs11Pool.Registry.whereis(:runners, pool), :kill)

      for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
      SoftHSM.let_go!(token)
      for result <- Task.await_many(running, 60_000), do: assert_done(result)
      assert_recovers(pool)
      Supervisor.stop(top)
    end

    test "of the pool server while the PIN source is asked leaves the token to the next login",
         %{opts: opts, pool: pool} do
      test = self()
      pin = opts[:pin].()

      top =
        start(
          Keyword.put(opts, :pin, fn ->
            send(test, {:asked, self()})
            receive do: (:go -> pin)
          end)
        )

      assert_receive {:asked, _source}
      waiting = for _ <- 1..5, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)
      Poll.until(fn -> Pools.native_status(pool).waiting >= 5 end)
      Process.exit(Pools.server(pool), :kill)
      for result <- Task.await_many(waiting, 60_000), do: assert_refused(result)

      assert_receive {:asked, source}
      send(source, :go)
      assert_recovers(pool)
      Supervisor.stop(top)
    end

    test "at any time, again and again, strands neither a caller nor the token",
         %{opts: opts, pool: pool} do
      for round <- 1..30 do
        top = start(Keyword.put(opts, :lazy, rem(round, 2) == 0))

        callers =
          for _ <- 1..8, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 50_000) end)

        Process.sleep(:rand.uniform(12) - 1)

        victim = if rem(round, 3) == 0, do: Pools.supervisor(pool), else: Pools.server(pool)
        Process.exit(victim, :kill)

        for result <- Task.await_many(callers, 10_000) do
          case result do
            {:ok, bytes} -> assert byte_size(bytes) == 50_000
            {:error, %Error{reason: reason}} -> assert reason in [:draining, :pool_not_found]
          end
        end

        assert_recovers(pool)
        Supervisor.stop(top)
      end
    end
  end

  test "Application.stop answers everybody, and the application starts again",
       %{opts: opts, pool: pool, token: token} do
    app = :"pkcs11_pool_stop_test_#{System.unique_integer([:positive])}"
    spec = [mod: {App, opts}, applications: [:kernel, :stdlib, :elixir, :pkcs11_pool]]
    :ok = :application.load({:application, app, spec})
    :ok = Application.start(app)
    on_exit(fn -> Application.stop(app) end)
    :ok = Pkcs11Pool.await_ready(pool, 30_000)

    [running] = Pools.stuck!(pool, token, 1)
    # The application's own process, which ends before the pool does.
    signer = signer(pool)
    from_signer = Task.async(fn -> catch_exit(GenServer.call(signer, :large, :infinity)) end)
    Pools.await_active!(pool, @size)
    queued = queue(pool)
    stopper = Task.async(fn -> Application.stop(app) end)

    for result <- Task.await_many(queued, 60_000), do: assert_refused(result)
    SoftHSM.let_go!(token)
    assert_done(Task.await(running, 60_000))
    assert {:shutdown, {GenServer, :call, _arguments}} = Task.await(from_signer, 60_000)
    :ok = Task.await(stopper, 60_000)

    :ok = Application.start(app)
    assert_recovers(pool)
    :ok = Application.stop(app)
  end

  # A user's supervisor with the pool in it.
  defp start(opts) do
    {:ok, top} = Supervisor.start_link([{Pkcs11Pool, opts}], strategy: :one_for_one)
    top
  end

  # Every session stuck in the module, and operations that wait behind them.
  defp load(pool, token) do
    :ok = Pkcs11Pool.await_ready(pool, 30_000)
    {Pools.stuck!(pool, token, @size), queue(pool)}
  end

  defp queue(pool) do
    queued = for _ <- 1..@queued, do: Task.async(fn -> Pkcs11Pool.generate_random(pool, 8) end)
    Poll.until(fn -> Pools.native_status(pool).waiting == @queued end)
    queued
  end

  defp signer(pool) do
    {:links, [top | _]} = Process.info(Pools.supervisor(pool), :links)

    Enum.find_value(Supervisor.which_children(top), fn {id, pid, _type, _modules} ->
      if id == Signer, do: pid
    end)
  end

  defp assert_refused(result) do
    assert {:error, %Error{reason: :draining, executed: false}} = result
  end

  defp assert_done(result), do: assert({:ok, <<_::256>>} = result)

  defp assert_given_up(result) do
    assert {:error, %Error{reason: :draining, executed: :unknown}} = result
  end

  defp assert_starts_again(opts) do
    top = start(opts)
    assert_recovers(opts[:name])
    Supervisor.stop(top)
  end

  # The pool works again, with all its sessions.
  defp assert_recovers(pool) do
    Poll.until(fn -> Pkcs11Pool.await_ready(pool, 30_000) == :ok end)
    Pools.full_strength!(pool)
    assert {:ok, <<_::64>>} = Pkcs11Pool.generate_random(pool, 8)
    status = Pools.drained!(pool)
    assert status.idle in 1..status.size
  end
end
