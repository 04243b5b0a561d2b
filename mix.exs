# The Mix compiler that builds the Rust library. It stands beside this file and not in lib/, since
# Mix needs it before anything of lib/ is compiled. A path dependency loads this file more than
# once in one VM: hence the guard.
unless Code.ensure_loaded?(Mix.Tasks.Compile.Pkcs11PoolNif) do
  for file <- ~w(cargo_messages download precompiled cargo kept_builds compile.pkcs11_pool_nif),
      do: Code.require_file("mix/#{file}.ex", __DIR__)
end

defmodule Pkcs11Pool.MixProject do
  use Mix.Project

  @version "0.1.0"

  # Where the project lives. All links of the package and of the documentation come from it.
  @source_url "https://pkcs11-pool.example/pkcs11_pool"

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
      description: description(),
      source_url: @source_url,
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
  # as one dependency is listed, whatever its `only:` says. The documentation is built by
  # script/docs, or, with Hex, by `PKCS11_POOL_DOCS=1 mix docs`.
  defp deps do
    if System.get_env("PKCS11_POOL_DOCS") do
      [{:ex_doc, "~> 0.34", only: :dev, runtime: false}]
    else
      []
    end
  end

  defp description do
    "A pool of PKCS#11 sessions for HSMs, cloud HSMs, smart cards and software tokens: signatures, encryption, keys, " <>
      "TLS, X.509 and JWS from Phoenix and GenServer code, without stalling the VM or locking a PIN."
  end

  defp package do
    [
      licenses: ["Apache-2.0"],
      links: %{
        "Source" => @source_url,
        "Changelog" => "#{@source_url}/blob/v#{@version}/CHANGELOG.md",
        "Security" => "#{@source_url}/blob/v#{@version}/SECURITY.md"
      },
      # A test compares this list with what the build reads. The checksums are those of precompiled libraries: script/package writes them, for a release.
      files:
        Path.wildcard("checksums.sha256") ++
          [
            ".cargo",
            ".formatter.exs",
            "CHANGELOG.md",
            "Cargo.lock",
            "Cargo.toml",
            "LICENSE",
            "README.md",
            "SECURITY.md",
            "THIRD_PARTY_LICENSES.md",
            "guides",
            "lib",
            "mix",
            "mix.exs",
            "native",
            "usage-rules.md"
          ]
    ]
  end

  defp docs do
    [
      main: "Pkcs11Pool",
      source_ref: "v#{@version}",
      extras: extras(),
      groups_for_extras: [
        "Guides for users": ~r{^guides/(?!architecture)},
        "For contributors": ["guides/architecture.md", "CHANGELOG.md"]
      ],
      groups_for_modules: module_groups()
    ]
  end

  # In the order in which a newcomer wants them. One that is not in this list comes after them.
  @guides ~w(getting_started tls_and_phoenix jwt_and_x509 testing failure_handling groups secrets performance telemetry doctor deployment supported vendors tokens process_isolation migrating)

  defp extras do
    first = Enum.map(@guides, &"guides/#{&1}.md")
    others = Path.wildcard("guides/*.md") -- ["guides/architecture.md" | first]
    Enum.filter(first ++ others ++ ["guides/architecture.md", "CHANGELOG.md"], &File.exists?/1)
  end

  # Each public module is in one of them: test/docs/module_groups_test.exs.
  defp module_groups do
    [
      Pool: [
        Pkcs11Pool,
        Pkcs11Pool.Error,
        Pkcs11Pool.Group,
        Pkcs11Pool.Health,
        Pkcs11Pool.Lease,
        Pkcs11Pool.Metrics,
        Pkcs11Pool.Object,
        Pkcs11Pool.Prepared,
        Pkcs11Pool.Profile,
        Pkcs11Pool.Slots,
        Pkcs11Pool.Telemetry
      ],
      "Words of PKCS#11": [
        Pkcs11Pool.EcdsaSignature,
        Pkcs11Pool.Mechanism,
        Pkcs11Pool.ReturnCode,
        Pkcs11Pool.Template,
        Pkcs11Pool.URI
      ],
      "TLS, X.509 and JWT": [
        Pkcs11Pool.JOSE,
        Pkcs11Pool.JWK,
        Pkcs11Pool.JWS,
        Pkcs11Pool.OTP,
        Pkcs11Pool.X509
      ],
      "Tokens and releases": [Pkcs11Pool.Release, Pkcs11Pool.Token],
      Testing: [Pkcs11Pool.Testing, Pkcs11Pool.Testing.Chaos]
    ]
  end
end
