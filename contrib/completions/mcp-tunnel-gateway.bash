# Completion of mcp-tunnel-gateway for bash; generated from gateway/config.def.

_mcp_tunnel_gateway()
{
	local cur prev

	COMPREPLY=()
	cur=${COMP_WORDS[COMP_CWORD]}
	prev=${COMP_WORDS[COMP_CWORD - 1]}
	case $prev in
	--token-file|--ca-file|--client-cert|--client-key|--proxy-auth-file|--upstream-ca-file|--upstream-client-cert|--upstream-client-key|--audit-hash-key-file|--state-dir|--config)
		COMPREPLY=($(compgen -f -- "$cur"))
		return
		;;
	--proxy)
		COMPREPLY=($(compgen -W 'none auto' -- "$cur"))
		return
		;;
	--tls-min)
		COMPREPLY=($(compgen -W '1.3 1.2' -- "$cur"))
		return
		;;
	--audit-on-failure)
		COMPREPLY=($(compgen -W 'deny continue' -- "$cur"))
		return
		;;
	--audit-sync)
		COMPREPLY=($(compgen -W 'off interval each' -- "$cur"))
		return
		;;
	--audit-read-back)
		COMPREPLY=($(compgen -W 'disk any off' -- "$cur"))
		return
		;;
	--audit-hash)
		COMPREPLY=($(compgen -W 'hmac-sha256-jcs sha256-jcs' -- "$cur"))
		return
		;;
	--log-level)
		COMPREPLY=($(compgen -W 'error warning notice info debug' -- "$cur"))
		return
		;;
	--control-plane|--region|--pin-sha256|--keepalive|--drain-timeout|--mcp-server-url|--route|--upstream-allow|--upstream-header-file|--max-request-bytes|--max-response-bytes|--max-streams|--call-timeout|--allow-tool|--deny-tool|--allow-prompt|--deny-prompt|--allow-resource-scheme|--deny-resource-scheme|--allow-method|--deny-method|--audit|--health-listen)
		return
		;;
	esac
	COMPREPLY=($(compgen -W '--token-file --control-plane --region --ca-file --client-cert --client-key --pin-sha256 --proxy
		--proxy-auth-file --tls-min --keepalive --drain-timeout --mcp-server-url --route --upstream-allow
		--upstream-ca-file --upstream-client-cert --upstream-client-key --upstream-header-file
		--allow-query --max-request-bytes --max-response-bytes --max-streams --call-timeout --allow-tool
		--deny-tool --allow-prompt --deny-prompt --allow-resource-scheme --deny-resource-scheme
		--allow-method --deny-method --policy-dry-run --audit --audit-on-failure --audit-sync
		--audit-read-back --audit-hash --audit-hash-key-file --state-dir --health-listen --log-level
		--config --check-config --print-config --doctor --json --version --help' -- "$cur"))
}
complete -o filenames -F _mcp_tunnel_gateway mcp-tunnel-gateway
