defmodule Pkcs11Pool.Profile do
  @moduledoc """
  Options for the tokens of some vendors.

      {Pkcs11Pool, name: MyApp.HSM, profile: :yubihsm2, module: "...", slot: {:token_label, "YubiHSM"}, pin: {:env, "HSM_PIN"}}

  A profile is a list of options, and nothing else. Options that you give the pool yourself win over those of the profile; for `:retry_policy`, that is decided for each return code.

  The values come from the vendors' documents. None of them was tried on the device. The [Vendor notes](guides/vendors.md) say where each value
  comes from, and what else you should know.
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
