defmodule Pkcs11Pool.Test.TelemetryMetricsStandIn do
  @moduledoc "In place of the `telemetry_metrics` library, which is optional and absent: its five functions, which return its structs."

  @kinds [
    counter: "Counter",
    sum: "Sum",
    last_value: "LastValue",
    summary: "Summary",
    distribution: "Distribution"
  ]
  @fields [
    :name,
    :event_name,
    :measurement,
    :tags,
    :tag_values,
    :description,
    :unit,
    :reporter_options
  ]

  @doc "Loads it for the calling test, which must not run beside others."
  @spec load!() :: :ok
  def load! do
    library = Module.concat(["Telemetry", "Metrics"])

    unless Code.ensure_loaded?(library) do
      structs = for {_kind, name} <- @kinds, do: Module.concat(library, name)

      for struct <- structs,
          do: Module.create(struct, quote(do: defstruct(unquote(@fields))), env())

      functions =
        for {{kind, _name}, struct} <- Enum.zip(@kinds, structs) do
          quote do
            def unquote(kind)(name, options),
              do: unquote(__MODULE__).definition(unquote(struct), name, options)
          end
        end

      Module.create(library, functions, env())

      ExUnit.Callbacks.on_exit(fn ->
        for module <- [library | structs] do
          :code.purge(module)
          :code.delete(module)
          :code.purge(module)
        end
      end)
    end

    :ok
  end

  defp env, do: Macro.Env.location(__ENV__)

  @doc false
  # As the library makes one of a name and its options.
  @spec definition(module, String.t(), keyword) :: struct
  def definition(struct, name, options) do
    [] = Keyword.keys(options) -- @fields
    name = name |> String.split(".") |> Enum.map(&String.to_atom/1)
    options = Keyword.put_new(options, :reporter_options, [])
    true = is_list(options[:event_name]) and is_atom(options[:measurement])
    true = is_function(options[:tag_values], 1)
    struct!(struct, [name: name] ++ options)
  end
end
