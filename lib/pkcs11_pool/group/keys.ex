defmodule Pkcs11Pool.Group.Keys do
  @moduledoc false
  # Which keys the members of a group have, and whether they are the same.

  alias Pkcs11Pool.Group.Member

  @doc "For other nodes, too: the private and secret keys of a pool of this node, each with what tells it from others."
  @spec list(pool :: term, keyword) :: {:ok, [map]} | {:error, Pkcs11Pool.Error.t()}
  def list(pool, opts) do
    with {:ok, private} <- Pkcs11Pool.find_objects(pool, [class: :private_key], opts),
         {:ok, secret} <- Pkcs11Pool.find_objects(pool, [class: :secret_key], opts) do
      {:ok, for(object <- private ++ secret, do: describe(pool, object, opts))}
    end
  end

  defp describe(pool, object, opts) do
    name = %{id: object.id, label: object.label, class: object.class, type: object.key_type}
    Map.put(name, :value, value(pool, object, opts))
  end

  # The private key's object may not tell its public half: then there may be another that does.
  defp value(pool, %{class: :private_key} = object, opts) do
    with {:error, _unreadable} <- Pkcs11Pool.public_key(pool, object, opts),
         {:error, _none} <-
           Pkcs11Pool.public_key(pool, [id: object.id, label: object.label], opts) do
      nil
    else
      {:ok, key} -> key
    end
  end

  defp value(pool, object, opts) do
    case Pkcs11Pool.get_attributes(pool, object, [:check_value], [{:partial, true} | opts]) do
      {:ok, %{check_value: value}} when is_binary(value) and value != "" -> value
      _none -> nil
    end
  end

  @spec compare([Member.t()], keyword) :: {:ok, [map]} | {:error, Pkcs11Pool.Error.t()}
  def compare(members, opts) do
    with {:ok, lists} <- lists(members, opts, []) do
      places = for {place, _keys} <- lists, do: place

      keys =
        for {place, keys} <- lists, key <- keys, do: {Map.delete(key, :value), {place, key.value}}

      {:ok,
       keys
       |> Enum.group_by(&elem(&1, 0), &elem(&1, 1))
       |> Enum.map(fn {name, found} ->
         on = for {place, _value} <- found, uniq: true, do: place
         values = for {_place, value} <- found, uniq: true, do: value
         Map.merge(name, %{on: on, missing: places -- on, same: same(values)})
       end)
       |> Enum.sort_by(&{&1.label, &1.id, &1.class})}
    end
  end

  defp same(values) do
    cond do
      nil in values -> nil
      true -> length(values) == 1
    end
  end

  defp lists([], _opts, lists), do: {:ok, Enum.reverse(lists)}

  defp lists([%Member{node: node, pool: pool} | rest], opts, lists) do
    listed =
      if node == node(),
        do: list(pool, opts),
        else: :erpc.call(node, __MODULE__, :list, [pool, opts], :infinity)

    with {:ok, keys} <- listed, do: lists(rest, opts, [{{pool, node}, keys} | lists])
  catch
    :error, {:erpc, _reason} ->
      details = %{node: node, cause: :disconnected}

      {:error,
       Pkcs11Pool.Error.new(:node_unavailable, pool: pool, executed: false, details: details)}
  end
end
