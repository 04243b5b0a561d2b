defmodule Mix.Tasks.Pkcs11Pool.Doctor do
  @shortdoc "Examines a PKCS#11 module and its tokens, and says what is wrong"
  @moduledoc """
  Examines a PKCS#11 module and its tokens, and says what is wrong and what to do.

      mix pkcs11_pool.doctor --module /usr/lib/softhsm/libsofthsm2.so

  The module is loaded in a VM of its own. If it crashes there, that is reported, with the call in which it did; if it hangs, that VM is ended after a limit. Your
  application is not started, and a running one is not disturbed.

  It shows the module and its interfaces, the slots, and of each token its flags, its limits of sessions and PINs, its mechanisms, and the keys that can be seen. Without
  `--login` no PIN is tried, nothing is signed, and the token stays as it is.

      HSM_PIN=... mix pkcs11_pool.doctor --module /usr/lib/softhsm/libsofthsm2.so --token-label payments --login --pin-env HSM_PIN

  logs in, lists the private keys, too, signs with one of them, and verifies the signature on the token and by OTP.

  ## The token

    * `--module PATH` - the PKCS#11 library
    * `--module-env NAME=VALUE` - a variable that it finds in its environment; may be given several times
    * `--module-args STRING`, `--module-sha256 DIGEST` - as the pool's options of these names
    * `--token-label LABEL`, `--token-serial SERIAL`, `--slot-id N` or `--uri URI` - the token, by one of these; by default all are looked at

  ## The login

    * `--login` - log in, sign, verify. There must be one token, or one that is named
    * `--pin-env VARIABLE`, `--pin-file PATH` or `--pin-prompt` - where the PIN comes from; by default a terminal is asked. There is no `--pin`: everybody on the machine can
      read what stands on the command line. The PIN reaches the other VM through a pipe, or by the variable or file
    * `--pin-pad` - the PIN is typed at the token's own pad
    * `--key LABEL|URI` - the key that signs; by default the first that can. Given without `--login`, it signs without a login, on a token that wants none

  A PIN is tried once. It is not tried at all where the token says that it is locked, or that one more wrong PIN locks it.

  ## How

    * `--timeout SECONDS` - how long one step may take, 30 by default
    * `--json` - the report for programs, on the standard output

  ## The exit code

  | code | |
  |---|---|
  | 0 | nothing is wrong with what was looked at; there may be warnings |
  | 1 | something is wrong: there is at least one finding of the level `error` |
  | 2 | the arguments are wrong, and nothing was done |
  | 3 | the module crashed, or ended its VM |
  | 4 | the module did not return in time |
  | 5 | the login failed (`C_Login`), or was not tried, since the token might lock. Do not run it again with the same PIN |

  In a release, where there is no Mix: `bin/my_app eval 'Pkcs11Pool.Release.doctor("--module ...")'`, see `Pkcs11Pool.Release`. All findings, and the JSON report, are
  described in the guide [The doctor](guides/doctor.md).
  """
  use Mix.Task

  @requirements ["compile"]

  @impl Mix.Task
  def run(arguments), do: Pkcs11Pool.Release.doctor(arguments)
end
