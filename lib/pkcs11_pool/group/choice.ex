defmodule Pkcs11Pool.Group.Choice do
  @moduledoc false
  # Which member gets a call: one of this node before one of another. Of two chosen at random the one with less to do ("power of two choices"); with
  # `strategy: :priority`, the first in the option's order that is available.

  alias Pkcs11Pool.Group.{Member, Table}

  @doc "The member for a call; nil if the group has none but those that were tried."
  @spec choose(Table.entry(), tried :: [Member.t()]) :: Member.t() | nil
  def choose(entry, tried \\ [])

  def choose(%{strategy: :balance, available: %{local: local}} = entry, [])
      when tuple_size(local) > 1,
      do: of_two(local) || of_all(entry, [])

  def choose(%{available: %{local: {member}}} = entry, []),
    do: if(Member.load(member), do: member, else: of_all(entry, []))

  def choose(entry, tried), do: of_all(entry, tried)

  @doc "The member whose token an object is of."
  @spec of_identity(Table.entry(), identity :: binary) :: Member.t() | nil
  def of_identity(entry, identity) do
    candidates = Enum.filter(entry.members, &(&1.identity == identity))
    Enum.find(candidates, &takes?/1) || List.first(candidates)
  end

  # What nobody is available for goes to any member: its error says why.
  defp of_all(%{strategy: strategy, available: available, members: members}, tried) do
    untried = fn list -> Enum.reject(list, &tried?(&1, tried)) end
    takes = fn tuple -> tuple |> Tuple.to_list() |> untried.() |> Enum.filter(&takes?/1) end

    pick(strategy, takes.(available.local)) || pick(strategy, takes.(available.remote)) ||
      pick(strategy, untried.(members))
  end

  defp takes?(member), do: member.available? and Member.load(member) != nil

  defp tried?(%{pool: pool, node: node}, tried),
    do: Enum.any?(tried, &match?(%{pool: ^pool, node: ^node}, &1))

  defp pick(_strategy, []), do: nil
  defp pick(:priority, [first | _]), do: first
  defp pick(:balance, [member]), do: member

  defp pick(:balance, members), do: of_two(List.to_tuple(members)) || hd(members)

  # Two different ones, by chance in which order: where both are free, the first is taken.
  defp of_two(members) do
    size = tuple_size(members)
    first = :rand.uniform(size)
    second = rem(first - 1 + :rand.uniform(size - 1), size) + 1
    less_loaded(:erlang.element(first, members), :erlang.element(second, members))
  end

  defp less_loaded(a, b) do
    case {Member.load(a), Member.load(b)} do
      {nil, nil} -> nil
      {nil, _load} -> b
      {_load, nil} -> a
      {of_a, of_b} -> if of_a <= of_b, do: a, else: b
    end
  end
end
