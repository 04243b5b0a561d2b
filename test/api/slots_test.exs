defmodule Pkcs11Pool.SlotsTest do
  use ExUnit.Case, async: true

  import ExUnit.CaptureLog

  alias Pkcs11Pool.Slots
  alias Pkcs11Pool.Test.{Poll, Pools, SoftHSM}

  defp slot, do: {__MODULE__, System.unique_integer()}

  test "a slot that was never registered has one session, and always the same turn" do
    slot = slot()
    assert Slots.pool_size(slot) == 1
    assert for(_ <- 1..3, do: Slots.next_worker_index(slot)) == [1, 1, 1]
  end

  test "a slot of one session has no turns to take" do
    slot = slot()
    assert :ok = Slots.register(slot, 1)
    assert for(_ <- 1..3, do: Slots.next_worker_index(slot)) == [1, 1, 1]
  end

  test "over k * size calls from 64 processes each index comes exactly k times" do
    slot = slot()
    :ok = Slots.register(slot, 7)

    indices =
      1..64
      |> Task.async_stream(fn _ -> for _ <- 1..70, do: Slots.next_worker_index(slot) end,
        max_concurrency: 64
      )
      |> Enum.flat_map(fn {:ok, indices} -> indices end)

    assert Enum.frequencies(indices) == Map.new(1..7, &{&1, 640})
  end

  test "the same size again changes nothing: the round robin goes on" do
    slot = slot()
    :ok = Slots.register(slot, 3)
    assert Slots.next_worker_index(slot) == 1
    log = capture_log(fn -> :ok = Slots.register(slot, 3) end)
    refute log =~ inspect(slot)
    assert Slots.next_worker_index(slot) == 2
  end

  test "another size replaces the first, and the log names the slot" do
    slot = slot()
    :ok = Slots.register(slot, 3)
    log = capture_log(fn -> :ok = Slots.register(slot, 2) end)
    assert log =~ inspect(slot)
    assert Slots.pool_size(slot) == 2
    assert for(_ <- 1..4, do: Slots.next_worker_index(slot)) |> Enum.sort() == [1, 1, 2, 2]
  end

  test "a size that is no positive number is refused, and the slot is named" do
    slot = slot()

    for size <- [0, -1, :many],
        do:
          assert_raise(ArgumentError, ~r/#{Regex.escape(inspect(slot))}/, fn ->
            Slots.register(slot, size)
          end)

    assert Slots.pool_size(slot) == 1
  end

  test "it is started by the application" do
    assert {:error, {:already_started, pid}} = Slots.start_link()
    assert pid == Process.whereis(Slots)
    assert {:error, {:already_started, ^pid}} = Slots.start_link([])
    assert %{id: Slots, start: {Slots, :start_link, [[]]}} = Slots.child_spec([])
  end

  test "a pool registers itself, follows a resize without a warning, and is gone when it has stopped" do
    token = SoftHSM.new_token!()
    opts = SoftHSM.pool_opts(token, pool_size: 3)
    name = opts[:name]
    start_supervised!({Pkcs11Pool, opts})
    assert Slots.pool_size(name) == 3

    log = capture_log(fn -> assert :ok = Pkcs11Pool.resize(name, 5) end)
    assert Slots.pool_size(name) == 5
    refute log =~ "slot #{inspect(name)}"

    # It is watched once, however often it was resized.
    for size <- 1..9, do: :ok = Pkcs11Pool.resize(name, size)
    {:monitors, monitors} = Slots |> Process.whereis() |> Process.info(:monitors)
    server = Pools.server(name)
    assert [_one] = for({:process, ^server} <- monitors, do: server)

    stop_supervised!({Pkcs11Pool, name})
    Poll.until(fn -> Slots.pool_size(name) == 1 end)
  end

  test "a size beyond what the counter takes is refused when it is registered" do
    for size <- [0, -1, 4_294_967_296, 10_000_000_000_000_000_000_000, 1.5] do
      assert_raise ArgumentError, ~r/to be an integer from 1 to 4_294_967_295/, fn ->
        Slots.register({__MODULE__, :too_large}, size)
      end
    end

    assert :ok = Slots.register({__MODULE__, :large}, 4_294_967_295)
    assert Slots.next_worker_index({__MODULE__, :large}) in 1..4_294_967_295
  end
end
