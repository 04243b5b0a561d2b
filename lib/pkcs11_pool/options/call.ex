defmodule Pkcs11Pool.Options.Call do
  @moduledoc false
  # The options of a call on a pool.

  alias Pkcs11Pool.Options.{Shape, Value}

  @typedoc "A timeout or `:session_object` of nil is the pool's."
  @type t :: %{
          queue_timeout: timeout | nil,
          operation_timeout: timeout | nil,
          telemetry_metadata: map,
          signature: :raw | :der,
          partial: boolean,
          session_object: :refuse | :allow | nil,
          force: boolean,
          limit: pos_integer | nil,
          select: :newest | ([Pkcs11Pool.Object.t()] -> Pkcs11Pool.Object.t() | nil) | nil,
          prefix: binary,
          suffix: binary,
          lease_timeout: timeout | nil,
          unverified: :refuse | :allow
        }

  @names [:queue_timeout, :operation_timeout, :telemetry_metadata]
  @defaults %{
    queue_timeout: nil,
    operation_timeout: nil,
    telemetry_metadata: %{},
    signature: :raw,
    partial: false,
    session_object: nil,
    force: false,
    limit: nil,
    select: nil,
    prefix: "",
    suffix: "",
    lease_timeout: nil,
    unverified: :refuse
  }

  @doc """
  The options of a call: `:queue_timeout`, `:operation_timeout`, `:telemetry_metadata`, and of `:signature`, `:partial`, `:session_object`, `:force`,
  `:limit`, `:select`, `:prefix`, `:suffix`, `:lease_timeout` and `:unverified` those in `extra`. Raises `ArgumentError` that names the option.
  """
  @spec validate!(keyword, [
          :signature
          | :partial
          | :session_object
          | :force
          | :limit
          | :select
          | :prefix
          | :suffix
          | :lease_timeout
          | :unverified
        ]) :: t
  def validate!(options, extra \\ [])
  def validate!([], _extra), do: @defaults
  def validate!(options, extra), do: with_defaults!(options, @names ++ extra, @defaults)

  @doc """
  Options that were validated, with these in their place, of those that every call takes. Raises `ArgumentError` that names the option.
  """
  @spec override!(t, keyword) :: t
  def override!(checked, []), do: checked
  def override!(checked, options), do: with_defaults!(options, @names, checked)

  @health_defaults %{call: false, timeout: 1_000}

  @doc """
  The options of `Pkcs11Pool.Health.check/2`. Raises `ArgumentError` that names the option.
  """
  @spec health!(keyword) :: %{call: boolean, timeout: pos_integer}
  def health!(options),
    do: with_defaults!(options, Map.keys(@health_defaults), @health_defaults)

  defp with_defaults!(options, names, defaults) do
    Shape.keyword!(options)
    Shape.known!(options, names)

    # As everywhere in Keyword, the first of several counts.
    options
    |> Enum.reverse()
    |> Enum.reduce(defaults, fn {name, value}, checked ->
      Map.replace!(checked, name, Value.validate!(name, value))
    end)
  end
end
