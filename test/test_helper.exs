alias Pkcs11Pool.Test.{Faults, SoftHSM}

SoftHSM.start!()
ExUnit.after_suite(fn _result -> SoftHSM.stop() end)

# `mix test --only faults` shows what it has proven.
ExUnit.after_suite(fn _result ->
  if :faults in ExUnit.configuration()[:include], do: IO.puts(["\n", Faults.markdown()])
end)

ExUnit.start(capture_log: true)
