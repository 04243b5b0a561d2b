defmodule Pkcs11Pool.RegistryTest do
  # Not async: it holds up the registry of all pools.
  use ExUnit.Case

  alias Pkcs11Pool.{Error, Registry}

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
end
