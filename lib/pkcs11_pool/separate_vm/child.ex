defmodule Pkcs11Pool.SeparateVM.Child do
  @moduledoc false
  # The other side of `Pkcs11Pool.SeparateVM`: what runs in the other VM.

  # For a fault of our own, which is told in one line.
  @most_failure 1_000

  @doc "Takes the job, does it, and ends the VM. It ends, too, when the VM that has started it is gone."
  @spec main() :: no_return
  def main do
    port = Port.open({:fd, 3, 4}, [:binary, :eof, packet: 4])

    receive do
      {^port, {:data, packet}} -> serve(port, :erlang.binary_to_term(packet))
      {^port, :eof} -> halt(1)
    end
  end

  defp serve(port, {module, argument}) do
    own = self()

    {job, monitor} =
      Process.spawn(
        fn ->
          # It may have a PIN.
          Process.flag(:sensitive, true)
          start_application()
          module.run(argument, &tell(own, &1))
        end,
        [:monitor]
      )

    loop(port, job, monitor)
  end

  # What a pool logs is told by its errors.
  defp start_application do
    Application.put_env(:logger, :level, :none)
    {:ok, _started} = Application.ensure_all_started(:pkcs11_pool)
  end

  defp tell(own, told) do
    reference = make_ref()
    send(own, {:tell, self(), reference, told})

    receive do
      ^reference -> :ok
    end
  end

  defp loop(port, job, monitor) do
    receive do
      {:tell, ^job, reference, told} ->
        say(port, {:tell, told})
        send(job, reference)
        loop(port, job, monitor)

      {:DOWN, ^monitor, :process, ^job, :normal} ->
        say(port, :done)
        halt(0)

      {:DOWN, ^monitor, :process, ^job, reason} ->
        say(port, {:failed, failure(reason)})
        halt(1)

      {^port, :eof} ->
        halt(1)
    end
  end

  # Until it was heard, since what is written to a pipe is on its way, and a crash of the module may be faster.
  defp say(port, term) do
    Port.command(port, :erlang.term_to_binary(term))

    receive do
      {^port, {:data, _heard}} -> :ok
      {^port, :eof} -> halt(1)
    end
  end

  # Where it came from, and not what the values were: a PIN may be among them.
  defp failure({%{__exception__: true, __struct__: kind}, stack}) when is_list(stack),
    do: failure(inspect(kind), stack)

  defp failure({_reason, [{_module, _function, _arguments, _place} | _rest] = stack}),
    do: failure("an error", stack)

  defp failure(_reason), do: "the job ended"

  defp failure(kind, stack) do
    places =
      for {module, function, arguments, _place} <- Enum.take(stack, 5) do
        arity = if is_list(arguments), do: length(arguments), else: arguments
        Exception.format_mfa(module, function, arity)
      end

    String.slice("#{kind} in #{Enum.join(places, ", ")}", 0, @most_failure)
  end

  # Nothing is waited for that the module has left inside, but for the two seconds of the exit guard.
  defp halt(status), do: :erlang.halt(status, flush: false)
end
