# The Mix compiler that builds the Rust library. It stands beside this file and not in lib/, since
# Mix needs it before anything of lib/ is compiled. A path dependency loads this file more than
# once in one VM: hence the guard.
unless Code.ensure_loaded?(Mix.Tasks.Compile.Pkcs11PoolNif) do
  Code.require_file("mix/cargo_messages.ex", __DIR__)
  Code.require_file("mix/compile.pkcs11_pool_nif.ex", __DIR__)
end

defmodule Pkcs11Pool.MixProject do
  use Mix.Project

  @version "0.1.0"

  def project do
    [
      app: :pkcs11_pool,
      version: @version,
      elixir: "~> 1.14",
      elixirc_paths: elixirc_paths(Mix.env()),
      # The library comes first, so that code which runs at compile time can already load it.
      compilers: [:pkcs11_pool_nif] ++ Mix.compilers(),
      deps: deps(),
      # Pkcs11Pool.JOSE calls it where the application has it.
      xref: [exclude: [:jose_jwk, :jose_jwk_kty]],
      name: "pkcs11_pool",
      description: "A pool of PKCS#11 sessions for HSMs, smart cards and software tokens",
      package: package(),
      docs: docs()
    ]
  end

  def application do
    [
      mod: {Pkcs11Pool.Application, []},
      extra_applications: [:logger, :crypto, :public_key]
    ]
  end

  defp elixirc_paths(:test), do: ["lib", "test/support"]
  defp elixirc_paths(_env), do: ["lib"]

  # Building and testing need no package at all, not even Hex itself, which Mix asks for as soon
  # as one dependency is listed, whatever its `only:` says. The documentation's tools are there
  # for who asks: `PKCS11_POOL_DOCS=1 mix docs`.
  defp deps do
    if System.get_env("PKCS11_POOL_DOCS") do
      [{:ex_doc, "~> 0.34", only: :dev, runtime: false}]
    else
      []
    end
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{},
      files: [
        ".cargo",
        ".formatter.exs",
        "CHANGELOG.md",
        "Cargo.lock",
        "Cargo.toml",
        "LICENSE",
        "README.md",
        "guides",
        "lib",
        "mix",
        "mix.exs",
        "native"
      ]
    ]
  end

  defp docs do
    [
      main: "Pkcs11Pool",
      source_ref: "v#{@version}",
      extras: Enum.filter(["CHANGELOG.md" | Path.wildcard("guides/*.md")], &File.exists?/1)
    ]
  end
end
