defmodule Pkcs11Pool.ProfileTest do
  # `:profile`: what is known of a vendor's token, as options that the caller's own win over.
  use ExUnit.Case, async: true

  alias Pkcs11Pool.{Error, Options, Profile}
  alias Pkcs11Pool.Test.SoftHSM

  @required [name: :hsm, module: "/usr/lib/p11.so", slot: {:token_label, "payments"}]

  defp options(more), do: Options.validate!(Keyword.merge(@required, more))

  test "each profile is made of options that a pool takes, and that differ from the defaults" do
    defaults = options([])
    assert Profile.names() == [:aws_cloudhsm, :google_kmsp11, :luna, :yubihsm2]

    for name <- Profile.names() do
      profile = Profile.options(name)
      assert profile != []
      options = options(profile: name)
      assert options.profile == name

      for {option, value} <- profile do
        assert Map.fetch!(options, option) ==
                 Map.fetch!(options(%{option => value} |> Map.to_list()), option)

        assert Map.fetch!(options, option) != Map.fetch!(defaults, option), "#{name}: #{option}"
      end
    end
  end

  test "explicit options win over the profile, whatever their order" do
    assert %{keepalive: 20_000, session_object: :allow} = options(profile: :yubihsm2)
    assert %{keepalive: :off} = options(keepalive: :off, profile: :yubihsm2)
    assert %{session_object: :refuse} = options(profile: :yubihsm2, session_object: :refuse)

    assert %{type: :cloud_hsm, operation_timeout: 1} =
             options(profile: :google_kmsp11, operation_timeout: 1)
  end

  test "of a retry policy each code by itself" do
    function_failed = Pkcs11Pool.ReturnCode.code(:function_failed)
    device_error = Pkcs11Pool.ReturnCode.code(:device_error)
    assert options(profile: :aws_cloudhsm).retry_policy == %{function_failed => :device_trouble}

    assert options(profile: :aws_cloudhsm, retry_policy: %{device_error: :ambiguous}).retry_policy ==
             %{function_failed => :device_trouble, device_error => :ambiguous}

    assert options(profile: :aws_cloudhsm, retry_policy: %{function_failed: :ambiguous}).retry_policy ==
             %{function_failed => :ambiguous}
  end

  test "what the options must be together holds for those of a profile, too" do
    assert_raise ArgumentError, ~r/:pin option: a pool of type :cloud_hsm never logs in/, fn ->
      options(profile: :google_kmsp11, pin: {:env, "PIN"})
    end

    assert %{type: :hsm} = options(profile: :google_kmsp11, type: :hsm, pin: {:env, "PIN"})
  end

  test "a profile that there is not is refused" do
    assert_raise ArgumentError,
                 ~r/invalid value for :profile option: expected one of \[:aws_cloudhsm, .*\], got: :yubihsm/,
                 fn -> options(profile: :yubihsm) end

    assert options(profile: nil) == options([])
  end

  test "the guide says of each option where it comes from" do
    guide = File.read!("guides/vendors.md")

    for name <- Profile.names() do
      [_before, section] = String.split(guide, "## #{inspect(name)}\n", parts: 2)
      [section | _next] = String.split(section, "\n## ")

      for {option, value} <- Profile.options(name) do
        row = "| `#{option}: #{Profile.format(value)}` |"
        assert section =~ row, "guides/vendors.md says nothing of #{row} (#{name})"
      end
    end
  end

  describe "session_object: :allow of a pool" do
    setup do
      token = SoftHSM.new_token!()
      %{token: token}
    end

    defp key(pool, opts) do
      template = [label: "k", value_len: 16, encrypt: true]
      Pkcs11Pool.generate_key(pool, :aes_key_gen, template, opts)
    end

    test "is for all its calls, and a call's own wins", %{token: token} do
      opts = SoftHSM.pool_opts(token, session_object: :allow)
      start_supervised!({Pkcs11Pool, opts})
      :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
      assert {:ok, _key} = key(opts[:name], [])

      assert {:error, %Error{reason: :session_object_needs_session}} =
               key(opts[:name], session_object: :refuse)
    end

    test "is not the default", %{token: token} do
      opts = SoftHSM.pool_opts(token)
      start_supervised!({Pkcs11Pool, opts})
      :ok = Pkcs11Pool.await_ready(opts[:name], 30_000)
      assert {:error, %Error{reason: :session_object_needs_session}} = key(opts[:name], [])
      assert {:ok, _key} = key(opts[:name], session_object: :allow)
    end

    test "an unknown pool is :pool_not_found" do
      assert {:error, %Error{reason: :pool_not_found}} =
               key(:no_such_pool, session_object: :allow)

      assert {:error, %Error{}} = key(:no_such_pool, [])
    end
  end
end
