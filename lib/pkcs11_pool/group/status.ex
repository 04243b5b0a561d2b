defmodule Pkcs11Pool.Group.Status do
  @moduledoc false
  # How a group is, and waiting until it is well: see `Pkcs11Pool.Group`.

  alias Pkcs11Pool.API.Pool
  alias Pkcs11Pool.Error
  alias Pkcs11Pool.Group.{Member, Server, Table}

  # ms between two looks while somebody waits.
  @pause 20

  @doc "All members, as they are now."
  @spec look!(name :: atom) :: [Member.t()]
  def look!(name) do
    if Table.group?(name), do: refresh(name)

    case Table.fetch(name) do
      {:ok, %{members: members}} -> members
      :error -> raise Error.new(:pool_not_found, pool: name, executed: false)
    end
  end

  # The server may be about to start again.
  defp refresh(name) do
    Server.refresh(name)
  catch
    :exit, _gone -> :ok
  end

  @spec status(name :: atom) :: %{required(atom) => term}
  def status(name) do
    members = name |> look!() |> Enum.map(&describe/1)
    health = health(members)
    %{health: health, health_reason: reason(health, members, name), members: members}
  end

  defp describe(member) do
    %{
      pool: member.pool,
      node: member.node,
      local: Member.local?(member),
      available: member.available?,
      status: if(member.native, do: pool_status(member.pool))
    }
  end

  defp pool_status(pool) do
    Pool.status(pool)
  rescue
    _gone in Error -> nil
  end

  defp health(members) do
    cond do
      not Enum.any?(members, & &1.available) -> :down
      Enum.all?(members, & &1.available) -> :ready
      true -> :degraded
    end
  end

  defp reason(:ready, _members, _name), do: nil

  defp reason(_health, [], name), do: Error.new(:no_member, pool: name, executed: false)

  defp reason(_health, members, _name) do
    %{pool: pool, node: node, local: local, status: status} =
      Enum.find(members, &(not &1.available))

    cond do
      status != nil and status.health_reason != nil -> status.health_reason
      local -> Error.new(:pool_not_found, pool: pool, executed: false)
      true -> Error.new(:node_unavailable, pool: pool, executed: false, details: %{node: node})
    end
  end

  @spec await_ready(name :: atom, timeout, :any | :all) :: :ok | {:error, Error.t()}
  def await_ready(name, timeout, which) do
    timeout == :infinity or (is_integer(timeout) and timeout >= 0) ||
      raise ArgumentError,
            "expected a time in ms that is not negative, or :infinity, got: #{inspect(timeout)}"

    which in [:any, :all] || raise ArgumentError, "expected :any or :all, got: #{inspect(which)}"
    await(name, if(timeout == :infinity, do: :infinity, else: now() + timeout), which)
  end

  defp await(name, deadline, which) do
    %{members: members} = status = status(name)
    ready = Enum.map(members, &ready?/1)
    done? = if which == :all, do: ready != [] and Enum.all?(ready), else: Enum.any?(ready)

    cond do
      done? ->
        :ok

      deadline != :infinity and now() >= deadline ->
        {:error, status.health_reason || Error.new(:starting, pool: name, executed: false)}

      true ->
        Process.sleep(@pause)
        await(name, deadline, which)
    end
  end

  defp ready?(%{status: %{health: health}}), do: health == :ready
  defp ready?(%{available: available}), do: available

  defp now, do: System.monotonic_time(:millisecond)
end
