"""ostler.control.v1.AccountService."""

from __future__ import annotations

import grpc
from ostler.control.v1 import account_pb2 as pb
from ostler.control.v1 import account_pb2_grpc

from ostler_control.api.caller import caller_of
from ostler_control.api.convert import core
from ostler_control.api.labels import select
from ostler_control.api.paging import page
from ostler_control.api.requests import once
from ostler_control.api.resolve import resolve, visible
from ostler_control.api.session import with_sessions
from ostler_control.catalog import accounts
from ostler_control.models import Account


@with_sessions
class AccountService(account_pb2_grpc.AccountServiceServicer):
    def CreateAccount(self, request: pb.CreateAccountRequest, context: grpc.ServicerContext) -> pb.Account:
        caller = caller_of(context)
        return core.account(once(Account, caller, request, lambda: accounts.create(request.name, caller.actor)))

    def GetAccount(self, request: pb.GetAccountRequest, context: grpc.ServicerContext) -> pb.Account:
        return core.account(resolve(Account, request.account, "account", caller=caller_of(context)))

    def ListAccounts(self, request: pb.ListAccountsRequest, context: grpc.ServicerContext) -> pb.ListAccountsResponse:
        caller = caller_of(context)
        query = select(visible(Account, caller), Account, request.selector)
        found = page(query, Account, request, scope=caller.actor)
        return pb.ListAccountsResponse(accounts=core.accounts(found.rows), next_page_token=found.next_page_token)

    def DeleteAccount(
        self, request: pb.DeleteAccountRequest, context: grpc.ServicerContext
    ) -> pb.DeleteAccountResponse:
        accounts.delete(resolve(Account, request.account, "account"), caller_of(context).actor)
        return pb.DeleteAccountResponse()
