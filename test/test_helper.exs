alias Pkcs11Pool.Test.{Faults, SoftHSM}

SoftHSM.start!()
ExUnit.after_suite(fn _result -> SoftHSM.stop() end)

# `mix test --only faults` shows what it has proven.
ExUnit.after_suite(fn _result ->
  if :faults in ExUnit.configuration()[:include], do: IO.puts(["\n", Faults.markdown()])
end)

# A machine that is busy elsewhere is no failure: what is waited for without end would be one.
ExUnit.start(capture_log: true, assert_receive_timeout: 30_000)
