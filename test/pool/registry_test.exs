defmodule Pkcs11Pool.RegistryTest do
  # Not async: it holds up the registry of all pools.
  use ExUnit.Case

  alias Pkcs11Pool.{Error, Registry, Slots}
  alias Pkcs11Pool.Test.Poll

  test "a pool whose server is dead is not found, though the registry has not yet heard of it" do
    test = self()

    {server, monitor} =
      spawn_monitor(fn ->
        send(test, Registry.register({__MODULE__, :pool}, %{}))
        receive do: (:stop -> :ok)
      end)

    assert_receive :ok
    assert {:ok, ^server, %{}} = Registry.lookup({__MODULE__, :pool})

    partitions = for {_id, pid, _type, _modules} <- Supervisor.which_children(Registry), do: pid
    Enum.each(partitions, &:sys.suspend/1)

    try do
      send(server, :stop)
      assert_receive {:DOWN, ^monitor, :process, ^server, :normal}
      assert Registry.lookup({__MODULE__, :pool}) == :error

      assert {:error, %Error{reason: :pool_not_found}} =
               Pkcs11Pool.generate_random({__MODULE__, :pool}, 8)
    after
      Enum.each(partitions, &:sys.resume/1)
    end
  end

  # What a pool's server does, in a process of the test's.
  defp server(name) do
    test = self()

    {server, _monitor} =
      spawn_monitor(fn ->
        :ok = Registry.register(name, %{executor: :threads})
        :ok = Slots.register_pool(name, 1)
        :ok = Registry.publish(name, %{executor: :threads})
        send(test, :published)
        receive do: (:update -> Registry.update(name, &%{&1 | executor: :dirty_io}))
        send(test, :updated)
        receive do: (:stop -> :ok)
      end)

    assert_receive :published
    server
  end

  defp published(name), do: :persistent_term.get({Registry, name}, nil)

  test "a pool is published for as long as its server lives, and as it is" do
    name = {__MODULE__, :published}
    first = server(name)
    assert Registry.lookup(name) == {:ok, first, %{executor: :threads}}
    send(first, :update)
    assert_receive :updated
    assert Registry.lookup(name) == {:ok, first, %{executor: :dirty_io}}
    assert published(name) == {first, %{executor: :dirty_io}}

    # Another slot of the same name, of the user's own.
    :ok = Slots.register(name, 1)
    Process.exit(first, :kill)
    assert_receive {:DOWN, _monitor, :process, ^first, :killed}
    Poll.until(fn -> published(name) == nil end)
    assert Registry.lookup(name) == :error

    second = server(name)
    assert {:ok, ^second, _entry} = Registry.lookup(name)
    # The end of another server than the one that is published changes nothing.
    assert Registry.forget(name, first) == :ok
    assert {^second, _entry} = published(name)
  end

  test "a pool is found if it is not published, and if another one is that has ended" do
    name = {__MODULE__, :unpublished}
    {dead, monitor} = spawn_monitor(fn -> Registry.publish(name, %{executor: :dead}) end)
    assert_receive {:DOWN, ^monitor, :process, ^dead, :normal}
    assert Registry.lookup(name) == :error
    :ok = Registry.register(name, %{executor: :threads})
    assert Registry.lookup(name) == {:ok, self(), %{executor: :threads}}
    assert Registry.forget(name, dead) == :ok
    assert published(name) == nil
    assert Registry.lookup(name) == {:ok, self(), %{executor: :threads}}
  end
end
