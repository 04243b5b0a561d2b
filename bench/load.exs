# Compiles bench/support and what it needs of the tests' support, which MIX_ENV=test has compiled already.
unless Code.ensure_loaded?(Pkcs11Pool.Test.SoftHSM) do
  for file <- ~w(soft_hsm otp_library),
      do: Code.require_file("../test/support/#{file}.ex", __DIR__)
end

Code.require_file("../mix/cargo_messages.ex", __DIR__)

{:ok, _modules, _warnings} =
  "support/**/*.ex"
  |> Path.expand(__DIR__)
  |> Path.wildcard()
  |> Kernel.ParallelCompiler.compile()
