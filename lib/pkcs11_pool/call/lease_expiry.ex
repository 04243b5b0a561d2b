defmodule Pkcs11Pool.Call.LeaseExpiry do
  @moduledoc false
  # The end of a lease that is held for too long, and who is named in the log then.

  alias Pkcs11Pool.{Lease, Native}

  @doc """
  The lease ends when its `:lease_timeout` has passed; the pool server is told who held it, and where it was taken.
  """
  @spec start(Lease.t(), server :: pid) :: :ok
  def start(%{entry: %{lease_timeout: :infinity}}, _server), do: :ok

  def start(lease, server),
    do: Native.expire_lease(lease.native, server, caller(), lease.entry.lease_timeout)

  # Where the lease was taken: the first function on the stack that is none of ours, nor of what runs a lazy stream.
  defp caller do
    {:current_stacktrace, stack} = Process.info(self(), :current_stacktrace)

    case Enum.find(stack, fn {module, _function, _arity, _location} -> not ours?(module) end) do
      nil -> "an unknown place"
      entry -> Exception.format_stacktrace_entry(entry)
    end
  end

  @between [Process, Enum, Stream, :lists]

  # By their names: an alias of a module that calls this one would make a cycle of the two.
  defp ours?(module) when module in @between, do: true

  defp ours?(module) do
    case Atom.to_string(module) do
      "Elixir.Pkcs11Pool" -> true
      "Elixir.Pkcs11Pool.API." <> _ -> true
      "Elixir.Pkcs11Pool.Call" -> true
      "Elixir.Pkcs11Pool.Call." <> _ -> true
      "Elixir.Enumerable." <> _ -> true
      _other -> false
    end
  end
end
