defmodule Pkcs11Pool.Profile do
  @moduledoc """
  What is known of some vendors' tokens, as options of a pool.

      {Pkcs11Pool, name: MyApp.HSM, profile: :yubihsm2, module: "...", slot: {:token_label, "YubiHSM"}, pin: {:env, "HSM_PIN"}}

  A profile is nothing but options. Those that the pool is given itself win over it, of `:retry_policy` each code by itself; all are checked together.

  The values come from the vendors' documents, and none of them was tried on the device: the guide about vendors, `guides/vendors.md`, says where each
  comes from, and what else there is to know.
  """

  @type name :: :aws_cloudhsm | :google_kmsp11 | :luna | :yubihsm2

  # The guide says why, and a test sees that it does: guides/vendors.md.
  @profiles [
    aws_cloudhsm: [
      retry_policy: %{function_failed: :device_trouble}
    ],
    google_kmsp11: [
      type: :cloud_hsm,
      session_object: :allow,
      random_chunk: 1_024,
      operation_timeout: 40_000
    ],
    luna: [
      executor: :threads,
      keepalive: 60_000
    ],
    yubihsm2: [
      keepalive: 20_000,
      session_object: :allow,
      random_chunk: 1_024
    ]
  ]

  @names Keyword.keys(@profiles)

  @doc "The names of the profiles."
  @spec names() :: [name, ...]
  def names, do: @names

  @doc """
  The options of a profile.

      iex> Pkcs11Pool.Profile.options(:yubihsm2)
      [keepalive: 20_000, session_object: :allow, random_chunk: 1_024]
  """
  @spec options(name) :: keyword
  def options(name) when name in @names, do: Keyword.fetch!(@profiles, name)

  @doc false
  # As one writes it in an option.
  @spec format(term) :: String.t()
  def format(value) when is_integer(value) and value >= 10_000,
    do: String.replace(Integer.to_string(value), ~r/(?<=\d)(?=(\d{3})+$)/, "_")

  def format(value), do: inspect(value)
end
