defmodule HttpsExample.MixProject do
  use Mix.Project

  def project do
    [
      app: :https_example,
      version: "0.1.0",
      elixir: "~> 1.14",
      # In your own project: {:pkcs11_pool, "~> 0.1"}
      deps: [{:pkcs11_pool, path: "../.."}]
    ]
  end

  def application do
    [mod: {HttpsExample, []}, extra_applications: [:logger, :ssl]]
  end
end
