defmodule Pkcs11Pool.Group.Choice do
  @moduledoc false
  # Which member gets a call: one of this node before one of another. Of two chosen at random the one with less to do ("power of two choices"); with
  # `strategy: :priority`, the first in the option's order that is available.

  alias Pkcs11Pool.Group.{Member, Table}
  alias Pkcs11Pool.Native

  @doc "The pool of this node that gets a call, as most calls do; `:none`: it takes a closer look, at all members."
  @spec quick(Table.local()) :: {:ok, pool :: term} | :none
  def quick({_strategy, {}}), do: :none

  def quick({_strategy, {{pool, native}}}),
    do: if(Native.load(native), do: {:ok, pool}, else: :none)

  def quick({:priority, members}), do: quick({:priority, {elem(members, 0)}})

  def quick({:balance, members}) do
    {{a, native_a}, {b, native_b}} = two(members)

    case less_loaded(Native.load(native_a), Native.load(native_b)) do
      :first -> {:ok, a}
      :second -> {:ok, b}
      :none -> :none
    end
  end

  @doc "The member for a call, of those that were not tried; nil if there is none."
  @spec choose(Table.entry(), tried :: [Member.t()]) :: Member.t() | nil
  # What nobody is available for goes to any member: its error says why.
  def choose(%{strategy: strategy, available: available, members: members}, tried \\ []) do
    untried = fn list -> Enum.reject(list, &tried?(&1, tried)) end
    takes = fn tuple -> tuple |> Tuple.to_list() |> untried.() |> Enum.filter(&takes?/1) end

    pick(strategy, takes.(available.local)) || pick(strategy, takes.(available.remote)) ||
      pick(strategy, untried.(members))
  end

  @doc "The member whose token an object is of."
  @spec of_identity(Table.entry(), identity :: binary) :: Member.t() | nil
  def of_identity(entry, identity) do
    candidates = Enum.filter(entry.members, &(&1.identity == identity))
    Enum.find(candidates, &takes?/1) || List.first(candidates)
  end

  defp takes?(member), do: member.available? and Member.load(member) != nil

  defp tried?(%{pool: pool, node: node}, tried),
    do: Enum.any?(tried, &match?(%{pool: ^pool, node: ^node}, &1))

  defp pick(_strategy, []), do: nil
  defp pick(:priority, [first | _]), do: first
  defp pick(:balance, [member]), do: member

  defp pick(:balance, members) do
    {a, b} = members |> List.to_tuple() |> two()
    if less_loaded(Member.load(a), Member.load(b)) == :second, do: b, else: a
  end

  # Two different ones, by chance in which order: where both have as much to do, the first is taken.
  defp two({a, b}), do: if(:rand.uniform(2) == 1, do: {a, b}, else: {b, a})

  defp two(members) do
    size = tuple_size(members)
    first = :rand.uniform(size)
    second = rem(first - 1 + :rand.uniform(size - 1), size) + 1
    {:erlang.element(first, members), :erlang.element(second, members)}
  end

  defp less_loaded(nil, nil), do: :none
  defp less_loaded(nil, _second), do: :second
  defp less_loaded(_first, nil), do: :first
  defp less_loaded(first, second), do: if(first <= second, do: :first, else: :second)
end
