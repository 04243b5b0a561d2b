defmodule Pkcs11Pool.Test.TelemetryStandIn do
  @moduledoc "In place of the `:telemetry` library, which is optional and absent: events are sent to the test that loads it, and to the handlers that it attaches."

  @name :telemetry

  @doc "Loads it for the calling test, which must not run beside others: `{event, measurements, metadata}` come as messages."
  @spec load!() :: :ok
  def load! do
    unless Code.ensure_loaded?(@name) do
      test = self()
      each(&send(test, {&1, &2, &3}))

      Module.create(
        @name,
        quote do
          def execute(event, measurements, metadata) do
            :persistent_term.get(unquote(__MODULE__)).(event, measurements, metadata)

            for {_id, {events, fun, config}} <- handlers(),
                event in events,
                do: fun.(event, measurements, metadata, config)

            :ok
          end

          def attach_many(id, events, fun, config) do
            if is_map_key(handlers(), id) do
              {:error, :already_exists}
            else
              put(Map.put(handlers(), id, {events, fun, config}))
            end
          end

          def detach(id) do
            if is_map_key(handlers(), id),
              do: put(Map.delete(handlers(), id)),
              else: {:error, :not_found}
          end

          defp handlers, do: :persistent_term.get({unquote(__MODULE__), :handlers}, %{})
          defp put(handlers), do: :persistent_term.put({unquote(__MODULE__), :handlers}, handlers)
        end,
        Macro.Env.location(__ENV__)
      )

      ExUnit.Callbacks.on_exit(fn ->
        :code.purge(@name)
        :code.delete(@name)
        :code.purge(@name)
        :persistent_term.erase(__MODULE__)
        :persistent_term.erase({__MODULE__, :handlers})
      end)
    end

    :ok
  end

  @doc "Calls this with each event, in the process that emits it."
  @spec each((event :: [atom], measurements :: map, metadata :: map -> term)) :: :ok
  def each(fun), do: :persistent_term.put(__MODULE__, fun)
end
