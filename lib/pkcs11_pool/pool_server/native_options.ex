defmodule Pkcs11Pool.PoolServer.NativeOptions do
  @moduledoc false
  # The options of a pool, in the form that the native side takes.

  alias Pkcs11Pool.Options

  @doc """
  The options for `Native.pool_start/1`. Times are milliseconds, and nil for no limit.
  """
  @spec encode(Options.t()) :: map
  def encode(%Options{} = options) do
    %{
      label: inspect(options.name),
      module: options.module,
      module_sha256: options.module_sha256,
      module_env: Options.reveal(options.module_env) || %{},
      module_args: Options.reveal(options.module_args),
      slot: Options.native_slot(options.slot),
      exclusive: options.type == :token,
      login: login(options),
      user: Options.user_type(options.user),
      username: options.username,
      retain_pin: options.pin_retention == :until_logout,
      inactivity_timeout: inactivity_timeout(options),
      explicit_login: options.type == :token and options.reauthentication == :fail,
      lazy: options.lazy,
      read_only: options.read_only,
      serialize: options.serialize,
      operation_timeout: or_nil(options.operation_timeout),
      random_chunk: options.random_chunk,
      keepalive: if(options.keepalive == :off, do: nil, else: options.keepalive),
      key_cache_ttl: or_nil(options.key_cache_ttl),
      trouble_timeout: or_nil(options.trouble_timeout),
      trouble_interval: options.trouble_interval,
      retry_policy: for({code, class} <- options.retry_policy, do: {code, Atom.to_string(class)}),
      pool_size: options.pool_size,
      stripes: options.stripes,
      idle_ttl: or_nil(options.idle_ttl),
      max_lifetime: or_nil(options.max_lifetime),
      max_waiting: options.max_waiting,
      shutdown_timeout: or_nil(options.shutdown_timeout),
      executor: options.executor,
      dirty_io_schedulers: :erlang.system_info(:dirty_io_schedulers)
    }
  end

  defp login(%{protected_authentication_path: true}), do: :protected
  defp login(%{pin: nil}), do: :none
  defp login(_options), do: :pin

  @doc """
  How long a pool may go unused before it logs out, in ms; nil for ever. Only a `:token` pool does: a token of one's own is left logged out, the login of
  one that others share is not touched.
  """
  @spec inactivity_timeout(Options.t()) :: pos_integer | nil
  def inactivity_timeout(%{type: :token, inactivity_timeout: timeout}), do: or_nil(timeout)
  def inactivity_timeout(_options), do: nil

  defp or_nil(:infinity), do: nil
  defp or_nil(ms), do: ms
end
