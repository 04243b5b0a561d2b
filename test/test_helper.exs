alias Pkcs11Pool.Test.{Pools, SoftHSM}

SoftHSM.start!()
Pools.start!()
ExUnit.after_suite(fn _result -> SoftHSM.stop() end)
ExUnit.start(capture_log: true)
