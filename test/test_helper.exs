alias Pkcs11Pool.Test.SoftHSM

SoftHSM.start!()
ExUnit.after_suite(fn _result -> SoftHSM.stop() end)
ExUnit.start(capture_log: true)
