defmodule Mix.Tasks.Pkcs11Pool.Init do
  @shortdoc "Makes a token, with its PINs and keys"
  @moduledoc """
  Makes a token, with its PINs and keys: for SoftHSM, for smart cards, and for every module that takes `C_InitToken`. Most network HSMs make their partitions by a tool of the vendor's.

      SO_PIN=... HSM_PIN=... mix pkcs11_pool.init --module /usr/lib/softhsm/libsofthsm2.so --token-label payments \\
        --so-pin-env SO_PIN --pin-env HSM_PIN --key signing:p256

  The token is made in the slot whose token nobody has initialized, whatever its number, which may change. A token that is initialized is left alone, as is one that has
  this label already: then nothing is done, and the exit code is 1.

  All that can be refused is refused before anything is done. What has been done is printed, also if something fails later.

  ## The token

    * `--module PATH` - the PKCS#11 library
    * `--module-env NAME=VALUE` - a variable that it finds in its environment; may be given several times
    * `--module-args STRING`, `--module-sha256 DIGEST` - as the pool's options of these names
    * `--token-label LABEL` - the new token's name, of at most 32 bytes
    * `--slot-id N` - the slot, where several have an uninitialized token
    * `--reinitialize` - make the token with this label anew, or the one that `--token-serial SERIAL` or `--slot-id N` names. *Everything on it is lost.* The security officer's
      PIN must be the present one; it is tried once, and not at all where the token says that it is locked or that one more wrong one locks it

  ## The PINs

    * `--so-pin-env VARIABLE`, `--so-pin-file PATH` or `--so-pin-prompt` - the security officer's, who may set PINs and make the token anew
    * `--pin-env VARIABLE`, `--pin-file PATH` or `--pin-prompt` - the user's, with which a pool logs in

  Without them a terminal is asked. A PIN is never an argument: everybody on the machine can read those.

  ## The keys

    * `--key LABEL:TYPE` - a key to be made; may be given several times. The types are `rsa2048`, `rsa3072`, `rsa4096`, `p256`, `p384`, `p521`, `secp256k1` and `ed25519` (key pairs that
      sign and verify; those of RSA also encrypt and decrypt), `aes128`, `aes256` (encrypt and decrypt) and `hmac` (32 bytes that sign and verify). All are private, sensitive and not
      extractable, may be used for nothing else, and have an id of 8 random bytes

  ## How

    * `--timeout SECONDS` - how long one step may take, 30 by default. The module is loaded in a VM of its own

  ## The exit code

  | code | |
  |---|---|
  | 0 | all is made |
  | 1 | something was refused or failed; the message says what was done until then |
  | 2 | the arguments are wrong, and nothing was done |
  | 3 | the module crashed, or ended its VM |
  | 4 | the module did not return in time |
  | 5 | the security officer's PIN was refused, or was not tried, since the token might lock |

  In a release: `bin/my_app eval 'Pkcs11Pool.Release.init("--module ...")'`.
  """
  use Mix.Task

  @requirements ["compile"]

  @impl Mix.Task
  def run(arguments), do: Pkcs11Pool.Release.init(arguments)
end
